/* Requests at a rate, whether or not the last ones are answered: HTTP/1.1 over TLS.

     cc -O2 -o paced paced.c -lssl -lcrypto
     paced PORT RATE SECONDS CONNECTIONS PATH PATHS 'NAME: VALUE'...

   A RATE of 0 is as many as there is time for: a request is due when a connection is free.
   PATH may have a `#`, which stands for 0, 1, ... PATHS - 1, one request after the other.

   Requests are due at random moments (a Poisson process, the same one in each run), and each is timed
   from the moment at which it was due: one that waits for a free connection, or for this program,
   waits in the figures too. Prints microseconds as JSON; `late` is how long a request waited for this
   program and a free connection.

   A connection whose answer says `connection: close`, or that ends between two requests, is opened
   anew, as any client does it. An answer other than 200, or none, ends this with 1. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define LARGEST 16384

typedef struct {
  SSL *ssl;
  int is_open, is_busy;
  double due;
  size_t have;
  char answer[LARGEST];
} Connection;

static void fail(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Begins to connect; `established` goes on. */
static void open_(Connection *c, SSL_CTX *context, int port, int poll) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int on = 1, socket_ = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(socket_, (struct sockaddr *)&address, sizeof address)) fail("can't connect");
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(socket_, F_SETFL, O_NONBLOCK);
  c->ssl = SSL_new(context);
  c->have = c->is_open = c->is_busy = 0;
  SSL_set_tlsext_host_name(c->ssl, "localhost");
  SSL_set_fd(c->ssl, socket_);
  SSL_set_connect_state(c->ssl);
  SSL_do_handshake(c->ssl);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(poll, EPOLL_CTL_ADD, socket_, &event);
}

static void close_(Connection *c) {
  int socket_ = SSL_get_fd(c->ssl);
  SSL_shutdown(c->ssl);
  SSL_free(c->ssl);
  close(socket_);
}

static int established(Connection *c) {
  int done = SSL_do_handshake(c->ssl);
  if (done != 1 && SSL_get_error(c->ssl, done) != SSL_ERROR_WANT_READ) fail("no TLS connection");
  return c->is_open = done == 1;
}

enum { WAITING, ANSWERED, LAST };

/* Whether the answer is complete now, and whether it or what came in its place was the last. */
static int answered(Connection *c) {
  while (1) {
    int got = SSL_read(c->ssl, c->answer + c->have, (int)(LARGEST - 1 - c->have));
    if (got <= 0) {
      if (SSL_get_error(c->ssl, got) == SSL_ERROR_WANT_READ) return WAITING;
      if (!c->is_busy) return LAST;
      fail("a connection was closed before its answer");
    }
    if (!c->is_busy) fail("an answer to nothing");
    c->have += got;
    c->answer[c->have] = 0;
    char *end = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "\r\ncontent-length:");
    if (!end) continue;
    if (strncmp(c->answer, "HTTP/1.1 200", 12) || !length || length > end) fail(c->answer);
    if (c->have >= end + 4 - c->answer + strtoul(length + 17, NULL, 10)) break;
  }
  char *closes = strcasestr(c->answer, "\r\nconnection: close");
  c->have = 0;
  return closes && closes < strstr(c->answer, "\r\n\r\n") ? LAST : ANSWERED;
}

/* A request for each path. */
static char *request_for(const char *path, long number, int port, char **headers, int count) {
  static char text[LARGEST];
  const char *mark = strchr(path, '#');
  int size = mark ? snprintf(text, sizeof text, "GET %.*s%ld%s", (int)(mark - path), path, number, mark + 1)
                  : snprintf(text, sizeof text, "GET %s", path);
  size += snprintf(text + size, sizeof text - size, " HTTP/1.1\r\nHost: localhost:%d\r\n", port);
  for (int i = 0; i < count; i++) size += snprintf(text + size, sizeof text - size, "%s\r\n", headers[i]);
  snprintf(text + size, sizeof text - size, "\r\n");
  return strdup(text);
}

int main(int count, char **words) {
  if (count < 7) fail("PORT RATE SECONDS CONNECTIONS PATH PATHS [HEADER...]");
  int port = atoi(words[1]), connections = atoi(words[4]);
  double rate = atof(words[2]), seconds = atof(words[3]);
  long paths = atol(words[6]);
  char **requests = calloc(paths, sizeof *requests);
  for (long i = 0; i < paths; i++) requests[i] = request_for(words[5], i, port, words + 7, count - 7);

  prctl(PR_SET_TIMERSLACK, 1UL);
  signal(SIGPIPE, SIG_IGN);
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  int poll = epoll_create1(0), idle = 0, reopened = 0;
  Connection *all = calloc(connections, sizeof *all), **free_ = calloc(connections, sizeof *free_);
  for (int i = 0; i < connections; i++) open_(&all[i], context, port, poll);
  size_t most = (size_t)((rate ? rate : 200000) * seconds * 2) + 1000, done = 0, sent = 0;
  float *took = calloc(most, sizeof *took), *late = calloc(most, sizeof *late);

  srand48(1);
  /* It begins when every connection stands. */
  double begun = INFINITY, next = INFINITY;
  struct epoll_event events[64];
  while (isinf(begun) || next < begun + seconds || idle < connections) {
    double at = now();
    if (isinf(begun) && idle == connections) begun = next = at;
    if (!rate && !isinf(begun)) next = at;
    while (idle && next <= at && next < begun + seconds && sent < most) {
      Connection *c = free_[--idle];
      c->due = next;
      c->is_busy = 1;
      char *request = requests[sent % paths];
      /* One that was just closed is found by what is read from it. */
      int size = (int)strlen(request), wrote = SSL_write(c->ssl, request, size);
      if (wrote != size) fail("a connection takes no more");
      late[sent++] = (float)((at - next) * 1e6);
      at = now();
      next = rate ? next - log(1 - drand48()) / rate : at;
    }
    /* With no connection free, or nothing more to send, only answers are waited for. */
    double wait = !idle || !(next < begun + seconds) ? 1 : next > at ? next - at : 0;
    struct timespec limit = {.tv_sec = (time_t)wait, .tv_nsec = (long)((wait - (time_t)wait) * 1e9)};
    int ready = epoll_pwait2(poll, events, 64, &limit, NULL);
    if (ready < 0 && errno != EINTR) fail("can't wait");
    for (int i = 0; i < ready; i++) {
      Connection *c = events[i].data.ptr;
      /* Errors of other connections are none of this one's. */
      ERR_clear_error();
      if (!c->is_open) {
        if (established(c)) free_[idle++] = c;
        continue;
      }
      int was_busy = c->is_busy, state = answered(c);
      if (state == WAITING) continue;
      if (was_busy && done < most) took[done++] = (float)((now() - c->due) * 1e6);
      c->is_busy = 0;
      if (was_busy && state == ANSWERED) free_[idle++] = c;
      if (state != LAST) continue;
      if (!was_busy) {
        int place = 0;
        while (free_[place] != c) place++;
        free_[place] = free_[--idle];
      }
      reopened++;
      close_(c);
      open_(c, context, port, poll);
    }
    if (at > begun + seconds + 10) fail("answers are missing");
  }
  qsort(took, done, sizeof *took, ascending);
  qsort(late, sent, sizeof *late, ascending);
  printf("{\"requests\": %zu, \"reopened\": %d, \"p50_us\": %.0f, \"p99_us\": %.0f, \"max_us\": %.0f,"
         " \"late_p50_us\": %.0f, \"late_p99_us\": %.0f}\n",
         done, reopened, took[done / 2], took[done * 99 / 100], took[done - 1], late[sent / 2], late[sent * 99 / 100]);
  return 0;
}
