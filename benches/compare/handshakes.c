/* New connections, each with a TLS handshake and one request: HTTP/1.1 over TLS.

     cc -O2 -o handshakes handshakes.c -lssl -lcrypto -lpthread
     handshakes PORT full|resumed SECONDS CLIENTS 'NAME: VALUE'...

   So many clients connect, ask, read the answer to its end and connect again, as fast as they can.
   Those that resume use the ticket of their last connection. Prints as JSON how many connections
   were made, how many of them resumed a session, and microseconds from connecting to the end of the
   answer. */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LARGEST 16384
#define MOST 1000000

typedef struct {
  pthread_t thread;
  size_t made, resumed;
  float *took;
} Client;

static int port, resume, size;
static double until;
static char request[LARGEST];
static SSL_CTX *context;

static void fail(const char *why) {
  fprintf(stderr, "%s\n", why);
  ERR_print_errors_fp(stderr);
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

static void *run(void *argument) {
  Client *client = argument;
  SSL_SESSION *session = NULL;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (double begun; (begun = now()) < until && client->made < MOST;) {
    int on = 1, socket_ = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(socket_, (struct sockaddr *)&address, sizeof address)) fail("can't connect");
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    SSL *ssl = SSL_new(context);
    SSL_set_tlsext_host_name(ssl, "localhost");
    SSL_set_fd(ssl, socket_);
    if (session) SSL_set_session(ssl, session);
    if (SSL_connect(ssl) != 1) fail("no TLS connection");
    if (SSL_write(ssl, request, size) != size) fail("a connection takes nothing");
    char answer[LARGEST];
    int have = 0, got;
    while ((got = SSL_read(ssl, answer + have, LARGEST - have)) > 0) have += got;
    if (have < 12 || strncmp(answer, "HTTP/1.1 200", 12)) fail("not answered with 200");
    client->took[client->made++] = (float)((now() - begun) * 1e6);
    client->resumed += SSL_session_reused(ssl);
    if (resume) {
      if (session) SSL_SESSION_free(session);
      /* A ticket comes after the handshake; this is the newest. */
      session = SSL_get1_session(ssl);
    }
    SSL_shutdown(ssl);
    SSL_free(ssl);
    close(socket_);
  }
  return NULL;
}

int main(int count, char **words) {
  if (count < 5) fail("PORT full|resumed SECONDS CLIENTS [HEADER...]");
  port = atoi(words[1]);
  resume = !strcmp(words[2], "resumed");
  int clients = atoi(words[4]);
  size = snprintf(request, sizeof request, "GET /1k HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n", port);
  for (int i = 5; i < count; i++) size += snprintf(request + size, sizeof request - size, "%s\r\n", words[i]);
  size += snprintf(request + size, sizeof request - size, "\r\n");
  signal(SIGPIPE, SIG_IGN);

  context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  Client *all = calloc(clients, sizeof *all);
  double begun = now();
  until = begun + atof(words[3]);
  for (int i = 0; i < clients; i++) {
    all[i].took = calloc(MOST, sizeof *all[i].took);
    pthread_create(&all[i].thread, NULL, run, &all[i]);
  }
  size_t made = 0, resumed = 0;
  float *took = calloc((size_t)clients * MOST, sizeof *took);
  for (int i = 0; i < clients; i++) {
    pthread_join(all[i].thread, NULL);
    memcpy(took + made, all[i].took, all[i].made * sizeof *took);
    made += all[i].made;
    resumed += all[i].resumed;
  }
  if (!made) fail("no connection was made");
  double seconds = now() - begun;
  qsort(took, made, sizeof *took, ascending);
  printf("{\"made\": %zu, \"resumed\": %zu, \"seconds\": %.3f, \"p50_us\": %.0f, \"p99_us\": %.0f}\n", made, resumed,
         seconds, took[made / 2], took[made * 99 / 100]);
  return 0;
}
