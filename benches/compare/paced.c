/* Requests at a rate, whether or not the last ones are answered: HTTP/1.1 over TLS.

     cc -O2 -o paced paced.c -lssl -lcrypto
     paced PORT RATE SECONDS CONNECTIONS 'NAME: VALUE'...

   Requests are due at random moments (a Poisson process, the same one in each run), and each is timed
   from the moment at which it was due: one that waits for a free connection, or for this program,
   waits in the figures too. Prints microseconds as JSON; `late` is how long a request waited for this
   program and a free connection. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
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

static Connection *opened(SSL_CTX *context, int port, int poll) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int on = 1, socket_ = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(socket_, (struct sockaddr *)&address, sizeof address)) fail("can't connect");
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  Connection *connection = calloc(1, sizeof *connection);
  connection->ssl = SSL_new(context);
  SSL_set_tlsext_host_name(connection->ssl, "localhost");
  SSL_set_fd(connection->ssl, socket_);
  if (SSL_connect(connection->ssl) != 1) fail("no TLS connection");
  fcntl(socket_, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
  epoll_ctl(poll, EPOLL_CTL_ADD, socket_, &event);
  return connection;
}

/* Whether the answer is complete now. */
static int answered(Connection *c) {
  while (1) {
    int got = SSL_read(c->ssl, c->answer + c->have, (int)(LARGEST - 1 - c->have));
    if (got <= 0) {
      if (SSL_get_error(c->ssl, got) == SSL_ERROR_WANT_READ) return 0;
      fail("a connection was closed");
    }
    c->have += got;
    c->answer[c->have] = 0;
    char *end = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "\r\ncontent-length:");
    if (!end) continue;
    if (strncmp(c->answer, "HTTP/1.1 200", 12) || !length || length > end) fail(c->answer);
    if (c->have >= end + 4 - c->answer + strtoul(length + 17, NULL, 10)) break;
  }
  c->have = 0;
  return 1;
}

int main(int count, char **words) {
  if (count < 5) fail("PORT RATE SECONDS CONNECTIONS [HEADER...]");
  int port = atoi(words[1]), connections = atoi(words[4]);
  double rate = atof(words[2]), seconds = atof(words[3]);
  char request[LARGEST];
  int size = snprintf(request, sizeof request, "GET /1k HTTP/1.1\r\nHost: localhost:%d\r\n", port);
  for (int i = 5; i < count; i++) size += snprintf(request + size, sizeof request - size, "%s\r\n", words[i]);
  size += snprintf(request + size, sizeof request - size, "\r\n");

  prctl(PR_SET_TIMERSLACK, 1UL);
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  int poll = epoll_create1(0), idle = 0;
  Connection **free_ = calloc(connections, sizeof *free_);
  for (; idle < connections; idle++) free_[idle] = opened(context, port, poll);
  size_t most = (size_t)(rate * seconds * 2) + 1000, done = 0, sent = 0;
  float *took = calloc(most, sizeof *took), *late = calloc(most, sizeof *late);

  srand48(1);
  double begun = now(), next = begun;
  struct epoll_event events[64];
  while (next < begun + seconds || idle < connections) {
    double at = now();
    while (idle && next <= at && next < begun + seconds && sent < most) {
      Connection *c = free_[--idle];
      c->due = next;
      if (SSL_write(c->ssl, request, size) != size) fail("a connection takes no more");
      late[sent++] = (float)((at - next) * 1e6);
      next -= log(1 - drand48()) / rate;
      at = now();
    }
    /* With no connection free, or nothing more to send, only answers are waited for. */
    double wait = !idle || next >= begun + seconds ? 1 : next > at ? next - at : 0;
    struct timespec limit = {.tv_sec = (time_t)wait, .tv_nsec = (long)((wait - (time_t)wait) * 1e9)};
    int ready = epoll_pwait2(poll, events, 64, &limit, NULL);
    if (ready < 0 && errno != EINTR) fail("can't wait");
    for (int i = 0; i < ready; i++) {
      Connection *c = events[i].data.ptr;
      if (!answered(c)) continue;
      if (done < most) took[done++] = (float)((now() - c->due) * 1e6);
      free_[idle++] = c;
    }
    if (at > begun + seconds + 10) fail("answers are missing");
  }
  qsort(took, done, sizeof *took, ascending);
  qsort(late, sent, sizeof *late, ascending);
  printf("{\"requests\": %zu, \"p50_us\": %.0f, \"p99_us\": %.0f, \"late_p50_us\": %.0f, \"late_p99_us\": %.0f}\n",
         done, took[done / 2], took[done * 99 / 100], late[sent / 2], late[sent * 99 / 100]);
  return 0;
}
