// A server that does what it is told, a line each, and answers `ok` or what went wrong: the same words as in server.py.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int server = -1;
static int kept[4096];
static int keeps = 0;

static void fails(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

__attribute__((noinline)) void waits_for_upstream(int ms) {
    int answer[2];
    if (pipe(answer) < 0) fails("pipe");
    struct pollfd upstream = {.fd = answer[0], .events = POLLIN};
    poll(&upstream, 1, ms);
    close(answer[0]);
    close(answer[1]);
}

__attribute__((noinline)) void compresses_the_log(int ms) {
    volatile unsigned long sum = 0;
    for (double began = cpu_seconds(); cpu_seconds() - began < ms / 1e3;)
        for (int number = 0; number < 1000; number++) sum += number;
}

static void does(const char *what, int ms) {
    if (!strcmp(what, "block")) waits_for_upstream(ms);
    if (!strcmp(what, "compute")) compresses_the_log(ms);
}

static void serve(int count, const char *what, int ms) {
    for (; count != 0; count--) {
        does(what, ms);
        int connection = accept(server, NULL, NULL);
        if (connection < 0) fails("accept");
        close(connection);
    }
}

static struct sockaddr_storage place(const char *address, int port, socklen_t *size) {
    struct sockaddr_storage place = {0};
    struct sockaddr_in *four = (struct sockaddr_in *)&place;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&place;
    if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        *size = sizeof *four;
    } else {
        inet_pton(AF_INET6, address, &six->sin6_addr);
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        *size = sizeof *six;
    }
    return place;
}

static void listens(const char *address, int port, int backlog, int shares) {
    socklen_t size;
    int one = 1;
    struct sockaddr_storage here = place(address, port, &size);
    server = socket(here.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (shares && setsockopt(server, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0) fails("share");
    if (bind(server, (struct sockaddr *)&here, size) < 0) fails("bind");
    if (listen(server, backlog) < 0) fails("listen");
}

static int connects(const char *address, int port) {
    socklen_t size;
    struct sockaddr_storage there = place(address, port, &size);
    int client = socket(there.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(client, (struct sockaddr *)&there, size) == 0) return client;
    int error = errno;
    close(client);
    errno = error;
    return -1;
}

static void *rests(void *nothing) {
    for (;;) pause();
    return nothing;
}

static void *leaves(void *count) {
    serve(*(int *)count, "nothing", 0);
    return NULL;
}

static void exhaust(int failures) {
    while (failures > 0) {
        int connection = accept(server, NULL, NULL);
        if (connection >= 0)
            kept[keeps++] = connection;
        else if (errno == EMFILE)
            failures--;
        else
            fails("accept");
    }
}

static void flood(void) {
    static char bytes[1 << 16];
    for (int index = 0; index < keeps; index++)
        while (send(kept[index], bytes, sizeof bytes, MSG_DONTWAIT) > 0) {}
}

static void close_all(void) {
    while (keeps > 0) close(kept[--keeps]);
}

static void abort_all(void) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    for (int index = 0; index < keeps; index++) setsockopt(kept[index], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close_all();
}

static void converse(int connection) {
    char bytes[4096];
    ssize_t count;
    while ((count = read(connection, bytes, sizeof bytes)) > 0)
        if (send(connection, bytes, count, MSG_NOSIGNAL) < 0) break;
    close(connection);
}

// Processes that accept from one socket.
static void echo(int processes) {
    for (int child = 1; child < processes && fork() != 0; child++) {}
    for (;;) converse(accept(server, NULL, NULL));
}

// The same, each with something to do for every client.
static void pool(int processes, const char *what, int ms) {
    for (int child = 1; child < processes && fork() != 0; child++) {}
    for (;;) {
        int connection = accept(server, NULL, NULL);
        does(what, ms);
        close(connection);
    }
}

// One thread, one event loop, all sockets.
static void events(void) {
    char bytes[4096];
    struct epoll_event ready[64];
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = server};
    int all = epoll_create1(EPOLL_CLOEXEC);
    fcntl(server, F_SETFL, O_NONBLOCK);
    epoll_ctl(all, EPOLL_CTL_ADD, server, &wanted);
    for (;;) {
        int count = epoll_wait(all, ready, 64, -1);
        for (int index = 0; index < count; index++) {
            int fd = ready[index].data.fd;
            if (fd == server) {
                while ((fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    wanted.data.fd = fd;
                    epoll_ctl(all, EPOLL_CTL_ADD, fd, &wanted);
                }
                continue;
            }
            ssize_t got = read(fd, bytes, sizeof bytes);
            if (got <= 0 || send(fd, bytes, got, MSG_NOSIGNAL) < 0) close(fd);
        }
    }
}

static void obey(char *line) {
    char verb[32], word[64], more[32] = "";
    int a = 0, b = 0, c = 0;
    sscanf(line, "%31s", verb);
    if (!strcmp(verb, "listen")) {
        sscanf(line, "%*s %63s %d %d %31s", word, &a, &b, more);
        listens(word, a, b, more[0] != 0);
    } else if (!strcmp(verb, "defer")) {
        sscanf(line, "%*s %d", &a);
        setsockopt(server, IPPROTO_TCP, TCP_DEFER_ACCEPT, &a, sizeof a);
    } else if (!strcmp(verb, "pin")) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(0, &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus) < 0) fails("pin");
    } else if (!strcmp(verb, "nice")) {
        sscanf(line, "%*s %d", &a);
        if (nice(a) < 0) fails("nice");
    } else if (!strcmp(verb, "descriptors")) {
        struct rlimit limit;
        sscanf(line, "%*s %d", &a);
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = a;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0) fails("descriptors");
    } else if (!strcmp(verb, "idle")) {
        pthread_t thread;
        pthread_create(&thread, NULL, rests, NULL);
    } else if (!strcmp(verb, "leave")) {
        pthread_t thread;
        sscanf(line, "%*s %d", &a);
        pthread_create(&thread, NULL, leaves, &a);
        pthread_join(thread, NULL);
    } else if (!strcmp(verb, "serve")) {
        sscanf(line, "%*s %d %63s %d", &a, word, &b);
        serve(a, word, b);
    } else if (!strcmp(verb, "take")) {
        sscanf(line, "%*s %d", &a);
        while (a-- > 0) kept[keeps++] = accept(server, NULL, NULL);
    } else if (!strcmp(verb, "exhaust")) {
        sscanf(line, "%*s %d", &a);
        exhaust(a);
    } else if (!strcmp(verb, "flood")) {
        flood();
    } else if (!strcmp(verb, "close")) {
        close_all();
    } else if (!strcmp(verb, "abort")) {
        abort_all();
    } else if (!strcmp(verb, "connect")) {
        sscanf(line, "%*s %63s %d %d %d %31s", word, &a, &b, &c, more);
        while (b-- > 0) {
            int client = connects(word, a);
            if (client < 0) fails("connect");
            if (more[0] != 0)
                kept[keeps++] = client;
            else
                close(client);
            usleep(c * 1000);
        }
    } else if (!strcmp(verb, "fail")) {
        sscanf(line, "%*s %63s %d %d", word, &a, &b);
        while (b-- > 0) {
            int client = connects(word, a);
            if (client >= 0)
                kept[keeps++] = client;
            else if (errno != EADDRNOTAVAIL)
                fails("connect");
        }
    } else if (!strcmp(verb, "pool")) {
        sscanf(line, "%*s %d %63s %d", &a, word, &b);
        puts("ok");
        pool(a, word, b);
    } else if (!strcmp(verb, "echo") || !strcmp(verb, "events") || !strcmp(verb, "forever")) {
        sscanf(line, "%*s %63s %d", word, &a);
        puts("ok");
        if (!strcmp(verb, "echo")) echo(atoi(word));
        if (!strcmp(verb, "events")) events();
        serve(-1, word, a);
    } else if (strcmp(verb, "hello")) {
        printf("unknown command %s", line);
        exit(1);
    }
}

int main(void) {
    char line[256];
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    while (fgets(line, sizeof line, stdin) != NULL) {
        obey(line);
        puts("ok");
    }
    return 0;
}
