/* Clients of echo servers, for the benchmarks.

   closed_loop talk CLIENTS BLOCKS MILLISECONDS PORT...
       connects CLIENTS to each port. Then, in each block, lets those of one port after the other talk for that long:
       each sends the next message when the last one has come back. Prints a line for each block: how many messages a
       second each port has echoed. Then a line for each port: the median, the 99th percentile and the longest of the
       times that a message took, in microseconds, and how many clients had an answer in every block before its end.
       (These leave out the first tenth of the blocks: there, an interpreter warms up.)
   closed_loop connect CLIENTS MILLISECONDS PORT
       so many clients at a time connect, say one message, hear it and leave, again and again: prints how many a second.
   closed_loop once CLIENTS MILLISECONDS PORT
       all connect at once, say one message, and stay until all have heard it, or the time is over: prints how many had
       heard it after one second, how many in the end, and after how many seconds the last one. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE 64
#define MOST 4000
#define PORTS 16
#define TIMES 1000000 /* microseconds that are told apart; what took longer counts as that long */

static int sockets[MOST], came[MOST], answers[MOST];
static double said[MOST], longest[PORTS];
static int times[PORTS][TIMES];
static char message[SIZE], buffer[SIZE];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void say(int who)
{
    came[who] = 0;
    said[who] = now();
    if (send(sockets[who], message, SIZE, 0) != SIZE)
        fail("send");
}

/* Whether the whole message has come back. */
static int hear(int who)
{
    ssize_t size = recv(sockets[who], buffer, SIZE, 0);
    if (size <= 0)
        fail("recv");
    return (came[who] += size) == SIZE;
}

static void join(int poll, int who, int port, int flags)
{
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event event = {.events = flags ? EPOLLOUT : EPOLLIN, .data.fd = who};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockets[who] = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (connect(sockets[who], (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect");
    setsockopt(sockets[who], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(poll, EPOLL_CTL_ADD, sockets[who], &event))
        fail("epoll_ctl");
}

static int percentile(int port, double part)
{
    long all = 0, seen = 0;
    for (int time = 0; time < TIMES; time++)
        all += times[port][time];
    for (int time = 0; time < TIMES; time++)
        if ((seen += times[port][time]) >= part * all)
            return time;
    return TIMES;
}

static int talk(int clients, int blocks, double seconds, int ports, char **port)
{
    int polls[PORTS], served[PORTS];
    struct epoll_event events[64];
    for (int place = 0; place < ports; place++) {
        polls[place] = epoll_create1(0);
        served[place] = clients;
        for (int who = place * clients; who < (place + 1) * clients; who++)
            join(polls[place], who, atoi(port[place]), 0);
    }
    for (int block = 0; block < blocks; block++) {
        for (int place = 0; place < ports; place++) {
            long echoed = 0;
            int waiting = clients, first = place * clients, in_time = 0;
            double began = now(), end = began + seconds;
            for (int who = first; who < first + clients; who++) {
                answers[who] = 0;
                say(who);
            }
            while (waiting) {
                int ready = epoll_wait(polls[place], events, 64, 30000);
                if (ready <= 0)
                    fail("epoll_wait");
                for (int i = 0; i < ready; i++) {
                    int who = events[i].data.fd;
                    if (!hear(who))
                        continue;
                    double at = now(), took = at - said[who];
                    echoed++;
                    answers[who] += at < end;
                    if (block >= blocks / 10) {
                        times[place][took * 1e6 < TIMES ? (int)(took * 1e6) : TIMES - 1]++;
                        if (took > longest[place])
                            longest[place] = took;
                    }
                    if (at < end)
                        say(who);
                    else
                        waiting--;
                }
            }
            printf("%.0f ", echoed / (now() - began));
            for (int who = first; who < first + clients; who++)
                in_time += answers[who] > 0;
            if (block >= blocks / 10 && in_time < served[place])
                served[place] = in_time;
        }
        printf("\n");
        fflush(stdout);
    }
    for (int place = 0; place < ports; place++)
        printf("%d %d %.0f %d\n", percentile(place, 0.5), percentile(place, 0.99), longest[place] * 1e6, served[place]);
    return 0;
}

static int come(int clients, double seconds, int port, int again)
{
    int poll = epoll_create1(0), heard = 0, soon = 0;
    struct epoll_event events[64];
    double began = now(), last = 0, left;
    for (int who = 0; who < clients; who++)
        join(poll, who, port, SOCK_NONBLOCK);
    while ((again || heard < clients) && (left = began + seconds - now()) > 0) {
        int ready = epoll_wait(poll, events, 64, left * 1000 + 1);
        for (int i = 0; i < ready; i++) {
            int who = events[i].data.fd;
            if (events[i].events & EPOLLOUT) {
                struct epoll_event event = {.events = EPOLLIN, .data.fd = who};
                say(who);
                epoll_ctl(poll, EPOLL_CTL_MOD, sockets[who], &event);
            } else if (hear(who)) {
                heard++;
                last = now() - began;
                soon += last < 1;
                if (again) {
                    close(sockets[who]);
                    join(poll, who, port, SOCK_NONBLOCK);
                }
            }
        }
    }
    if (again)
        printf("%.0f\n", heard / (now() - began));
    else
        printf("%d %d %.3f\n", soon, heard, last);
    return 0;
}

int main(int argc, char **argv)
{
    int clients = argc > 4 ? atoi(argv[2]) : 0;
    memset(message, 'x', SIZE);
    if (argc > 5 && !strcmp(argv[1], "talk") && argc - 5 <= PORTS && clients * (argc - 5) <= MOST)
        return talk(clients, atoi(argv[3]), atoi(argv[4]) / 1e3, argc - 5, argv + 5);
    if (argc == 5 && clients <= MOST)
        return come(clients, atoi(argv[3]) / 1e3, atoi(argv[4]), !strcmp(argv[1], "connect"));
    return 2;
}
