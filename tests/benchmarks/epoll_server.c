/* An echo server with one thread and epoll, the peer that the benchmarks compare with: epoll_server PORT */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int one = 1, poll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
    static char buffer[1024];
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024) ||
        epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event)) {
        perror("epoll_server");
        return 1;
    }
    fputs("listening\n", stderr);
    for (;;) {
        int ready = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            int from = events[i].data.fd;
            if (from == listener) {
                event.data.fd = accept(listener, NULL, NULL);
                epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            ssize_t size = recv(from, buffer, sizeof buffer, 0);
            /* A blocking send takes all of it: these clients read what they have sent before they send more. */
            if (size <= 0 || send(from, buffer, size, MSG_NOSIGNAL) != size)
                close(from);
        }
    }
}
