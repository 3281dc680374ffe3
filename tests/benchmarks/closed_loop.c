/* Clients of echo servers, for test_recording_cost.py: each sends the next message when the last one has come back.

   closed_loop CLIENTS BLOCKS MILLISECONDS PORT...

   connects CLIENTS to each port. Then, in each block, lets those of one port after the other talk for that long, and
   prints one line: how many messages a second each port has echoed. */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE 64
#define MOST 1000

static int sockets[MOST], came[MOST];
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
    if (send(sockets[who], message, SIZE, 0) != SIZE)
        fail("send");
}

int main(int argc, char **argv)
{
    int clients = atoi(argv[1]), blocks = atoi(argv[2]), ports = argc - 4;
    double seconds = atoi(argv[3]) / 1e3;
    int polls[8];
    struct epoll_event events[64];
    if (ports > 8 || clients * ports > MOST)
        return 2;
    memset(message, 'x', SIZE);
    for (int port = 0; port < ports; port++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[4 + port]))};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        polls[port] = epoll_create1(0);
        for (int who = port * clients; who < (port + 1) * clients; who++) {
            int one = 1;
            struct epoll_event event = {.events = EPOLLIN, .data.fd = who};
            sockets[who] = socket(AF_INET, SOCK_STREAM, 0);
            if (connect(sockets[who], (struct sockaddr *)&address, sizeof address))
                fail("connect");
            setsockopt(sockets[who], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            if (epoll_ctl(polls[port], EPOLL_CTL_ADD, sockets[who], &event))
                fail("epoll_ctl");
        }
    }
    for (int block = 0; block < blocks; block++) {
        for (int port = 0; port < ports; port++) {
            long echoed = 0;
            int waiting = clients;
            double began = now(), end = began + seconds;
            for (int who = port * clients; who < (port + 1) * clients; who++)
                say(who);
            while (waiting) {
                int ready = epoll_wait(polls[port], events, 64, 30000);
                if (ready <= 0)
                    fail("epoll_wait");
                for (int i = 0; i < ready; i++) {
                    int who = events[i].data.fd;
                    ssize_t size = recv(sockets[who], buffer, SIZE, 0);
                    if (size <= 0)
                        fail("recv");
                    came[who] += size;
                    if (came[who] < SIZE)
                        continue;
                    echoed++;
                    if (now() < end)
                        say(who);
                    else
                        waiting--;
                }
            }
            printf("%.0f ", echoed / (now() - began));
        }
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
