/* Many WebSocket clients in one process: it connects, counts what comes, and says when everybody has it.

   Told what to do by lines on standard input, answers by lines on standard output; benchmarks/lib/receiver.py has the
   list. `receiver walk PREFIX BYTES` counts the messages of what it reads, BYTES at a time, for tests. */
#define _GNU_SOURCE
#include "frames.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)
#define EVENTS 512
#define HELLO_BYTES 16384
#define LINE_BYTES 8192

enum { CLOSED, CONNECTING, ASKED, READY };

struct client {
    int fd;
    uint8_t state, stalled, done;
    uint32_t number, hello_size;
    unsigned char *hello; /* what came before it was ready */
    uint64_t ready_ns, bytes;
    struct walker walker;
};

static struct settings {
    char host[64], path[LINE_BYTES], paths[LINE_BYTES], header[LINE_BYTES], ready[256], prefix[256];
    unsigned char hello[1024];
    size_t hello_bytes;
    int port, in_flight, receive_buffer, timing;
    uint64_t unit;
} set = {.host = "127.0.0.1", .path = "/", .in_flight = 500};

static struct client *clients;
static int count, room, ready_count, closed_count, poller;
static uint64_t expected, expected_total, total, first_ns, last_ns;
static int expecting, finished, participants;
static uint64_t *latencies;
static size_t latency_count, latency_room;
static unsigned char space[CARRY_BYTES + READ_BYTES], *const buffer = space + CARRY_BYTES;
static uint64_t read_ns;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + time.tv_nsec;
}

static void fail(const char *what) {
    printf("failed %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    fflush(stdout);
    exit(1);
}

static void seen(void *context, const unsigned char *payload, size_t size) {
    (void)context;
    const unsigned char *at = memmem(payload, size, "\"sent\":", 7), *end = payload + size;
    if (!at)
        return;
    for (at += 7; at < end && (*at == ' ' || *at == '"'); at++)
        ;
    uint64_t sent = 0;
    for (; at < end && *at >= '0' && *at <= '9'; at++)
        sent = sent * 10 + (*at - '0');
    if (latency_count == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        if (!(latencies = realloc(latencies, latency_room * sizeof *latencies)))
            fail("no memory for latencies");
    }
    latencies[latency_count++] = read_ns > sent ? read_ns - sent : 0;
}

static void control(void *context, int opcode, const unsigned char *payload, size_t size) {
    struct client *client = context;
    unsigned char pong[6 + 125] = {0x8A, 0x80 | size}; /* a mask of zeros */
    if (opcode == 9 && size <= 125) {
        memcpy(pong + 6, payload, size);
        (void)!send(client->fd, pong, 6 + size, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static struct looks looks = {.prefix = "", .seen = seen, .control = control};

static void end_client(struct client *client) {
    if (client->state == READY)
        ready_count--;
    client->state = CLOSED;
    closed_count++;
    close(client->fd);
    free(client->hello);
    client->hello = NULL;
    if (expecting && !client->stalled) {
        expecting = 0;
        printf("failed %d clients were disconnected by the server\n", closed_count);
        fflush(stdout);
    }
}

static uint64_t messages_of(const struct client *client) {
    return set.unit ? client->walker.payload_bytes / set.unit : client->walker.messages;
}

static void took(struct client *client, size_t size) {
    uint64_t before = messages_of(client);
    client->bytes += size;
    walk(&client->walker, &looks, client, buffer, size);
    if (!expecting)
        return;
    if (!first_ns)
        first_ns = set.timing ? read_ns : now_ns();
    uint64_t now = messages_of(client);
    total += now - before;
    if (!client->done && now >= expected && !client->stalled)
        client->done = 1, finished++;
    if (expected_total ? total >= expected_total : finished == participants) {
        last_ns = now_ns();
        expecting = 0;
        printf("done %llu %llu %llu\n", (unsigned long long)first_ns, (unsigned long long)last_ns,
               (unsigned long long)total);
        fflush(stdout);
    }
}

/* The answer to the handshake, and what follows until the client counts as ready. */
static void took_hello(struct client *client, size_t size) {
    if (!client->hello && !(client->hello = malloc(HELLO_BYTES + 1)))
        fail("no memory");
    if (client->hello_size + size > HELLO_BYTES)
        fail("a client got too much before it was ready");
    memcpy(client->hello + client->hello_size, buffer, size);
    client->hello_size += size;
    unsigned char *body = memmem(client->hello, client->hello_size, "\r\n\r\n", 4);
    if (!body)
        return;
    if (client->hello_size < 12 || memcmp(client->hello + 8, " 101", 4)) {
        client->hello[client->hello_size < 80 ? client->hello_size : 80] = 0;
        client->hello[strcspn((char *)client->hello, "\r\n")] = 0;
        errno = 0;
        fail((char *)client->hello);
    }
    body += 4;
    size = client->hello + client->hello_size - body;
    if (client->state == CONNECTING) {
        client->state = ASKED;
        if (set.hello_bytes && send(client->fd, set.hello, set.hello_bytes, MSG_NOSIGNAL) < 0)
            fail("send");
    }
    if (*set.ready && !memmem(body, size, set.ready, strlen(set.ready)))
        return;
    client->state = READY;
    client->ready_ns = now_ns();
    ready_count++;
    memcpy(buffer, body, size);
    free(client->hello);
    client->hello = NULL;
    took(client, size);
}

static void readable(struct client *client) {
    ssize_t size = recv(client->fd, buffer, READ_BYTES, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (set.timing)
        read_ns = now_ns();
    if (size <= 0) {
        if (client->state != READY)
            fail("a connection ended before it was ready");
        end_client(client);
    } else if (client->state == READY)
        took(client, size);
    else
        took_hello(client, size);
}

static void open_client(struct client *client, const char *path) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(set.port)};
    inet_pton(AF_INET, set.host, &address.sin_addr);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        fail("socket");
    int one = 1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (set.receive_buffer)
        setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &set.receive_buffer, sizeof set.receive_buffer);
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect");
    client->state = CONNECTING;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = client->number + 1};
    epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event);
    client->hello = malloc(HELLO_BYTES + 1);
    snprintf((char *)client->hello, HELLO_BYTES,
             "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
             path, set.host, set.port, set.header);
}

static void writable(struct client *client) {
    size_t size = strlen((char *)client->hello);
    if (send(client->fd, client->hello, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = client->number + 1};
    epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event);
}

static void turn(int timeout_ms);

static int by_time(const void *a, const void *b) {
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return (first > second) - (first < second);
}

static void connect_all(int more) {
    FILE *paths = *set.paths ? fopen(set.paths, "r") : NULL;
    char path[LINE_BYTES];
    if (*set.paths && !paths)
        fail(set.paths);
    if (count + more > room) {
        if (!(clients = realloc(clients, (count + more) * sizeof *clients)))
            fail("no memory");
        room = count + more;
    }
    int goal = ready_count + more, started = 0, before = ready_count, from = count;
    uint64_t begun = now_ns();
    while (ready_count < goal) {
        while (started < more && started - (ready_count - before) < set.in_flight) {
            if (!paths)
                strcpy(path, set.path);
            else if (fgets(path, sizeof path, paths))
                path[strcspn(path, "\n")] = 0;
            else
                fail("fewer paths than clients");
            clients[count] = (struct client){.number = count};
            open_client(&clients[count++], path);
            started++;
        }
        turn(1000);
    }
    if (paths)
        fclose(paths);
    uint64_t *times = malloc(more * sizeof *times);
    for (int i = 0; i < more; i++)
        times[i] = clients[from + i].ready_ns - begun;
    qsort(times, more, sizeof *times, by_time);
    printf("connected %llu %llu\n", (unsigned long long)times[more - 1], (unsigned long long)times[(more - 1) / 2]);
    free(times);
}

static void expect(uint64_t each, uint64_t all) {
    expected = each ? each : UINT64_MAX, expected_total = all;
    total = first_ns = last_ns = 0;
    finished = participants = 0;
    for (int i = 0; i < count; i++) {
        clients[i].walker.messages = clients[i].walker.payload_bytes = clients[i].bytes = 0;
        clients[i].done = 0;
        participants += clients[i].state == READY && !clients[i].stalled;
    }
    expecting = 1;
    printf("armed\n");
}

static void say_counts(void) {
    uint64_t low = UINT64_MAX, high = 0, all = 0, bytes = 0;
    for (int i = 0; i < count; i++)
        if (clients[i].state == READY && !clients[i].stalled) {
            uint64_t one = messages_of(&clients[i]);
            low = one < low ? one : low, high = one > high ? one : high, all += one, bytes += clients[i].bytes;
        }
    printf("counts %d %d %llu %llu %llu %llu\n", ready_count, closed_count, (unsigned long long)(high ? low : 0),
           (unsigned long long)high, (unsigned long long)all, (unsigned long long)bytes);
}

/* The newest connections stop reading, or (0) all read again. */
static void stall(int number) {
    for (int i = count - 1; i >= 0; i--)
        if (clients[i].state == READY && (number > 0 || clients[i].stalled)) {
            clients[i].stalled = number-- > 0;
            struct epoll_event event = {.events = clients[i].stalled ? 0 : EPOLLIN, .data.u32 = i + 1};
            epoll_ctl(poller, EPOLL_CTL_MOD, clients[i].fd, &event);
        }
    printf("ok\n");
}

static void disconnect(int number) {
    expecting = 0;
    for (int i = count - 1; i >= 0 && number > 0; i--)
        if (clients[i].state == READY) {
            struct linger reset = {1, 0}; /* no TIME_WAIT: the next ones need the ports */
            setsockopt(clients[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            end_client(&clients[i]);
            closed_count--, number--;
        }
    while (count && clients[count - 1].state == CLOSED)
        count--;
    printf("ok\n");
}

static void write_latencies(const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(latencies, sizeof *latencies, latency_count, file) != latency_count || fclose(file))
        fail(path);
    printf("latencies %zu\n", latency_count);
    latency_count = 0;
}

static void change(const char *key, const char *value) {
    if (!strcmp(key, "port")) set.port = atoi(value);
    else if (!strcmp(key, "host")) snprintf(set.host, sizeof set.host, "%s", value);
    else if (!strcmp(key, "path")) snprintf(set.path, sizeof set.path, "%s", value);
    else if (!strcmp(key, "paths")) snprintf(set.paths, sizeof set.paths, "%s", value);
    else if (!strcmp(key, "ready")) snprintf(set.ready, sizeof set.ready, "%s", value);
    else if (!strcmp(key, "header")) snprintf(set.header, sizeof set.header, *value ? "%s\r\n" : "%s", value);
    else if (!strcmp(key, "in_flight")) set.in_flight = atoi(value);
    else if (!strcmp(key, "receive_buffer")) set.receive_buffer = atoi(value);
    else if (!strcmp(key, "unit")) set.unit = strtoull(value, NULL, 10);
    else if (!strcmp(key, "prefix")) {
        snprintf(set.prefix, sizeof set.prefix, "%s", value);
        looks.prefix = set.prefix, looks.prefix_bytes = strlen(set.prefix);
    } else if (!strcmp(key, "timing")) {
        set.timing = atoi(value);
        looks.look_bytes = set.timing ? LOOK_BYTES : 0;
    } else if (!strcmp(key, "hello")) {
        for (set.hello_bytes = 0; sscanf(value, "%2hhx", &set.hello[set.hello_bytes]) == 1; value += 2)
            set.hello_bytes++;
    } else
        fail(key);
    printf("ok\n");
}

static void command(char *line) {
    char *word = strtok(line, " "), *rest = strtok(NULL, "");
    errno = 0;
    if (!word)
        return;
    if (!rest)
        rest = "";
    if (!strcmp(word, "set")) {
        char *value = strchr(rest, ' ');
        if (value)
            *value++ = 0;
        change(rest, value ? value : "");
    } else if (!strcmp(word, "connect")) connect_all(atoi(rest));
    else if (!strcmp(word, "expect")) expect(strtoull(rest, NULL, 10), 0);
    else if (!strcmp(word, "expect_total")) expect(0, strtoull(rest, NULL, 10));
    else if (!strcmp(word, "counts")) say_counts();
    else if (!strcmp(word, "latencies")) write_latencies(rest);
    else if (!strcmp(word, "stall")) stall(atoi(rest));
    else if (!strcmp(word, "disconnect")) disconnect(*rest ? atoi(rest) : count);
    else fail(word);
    fflush(stdout);
}

static void commands(void) {
    static char line[LINE_BYTES];
    static size_t size;
    ssize_t got = read(0, line + size, sizeof line - 1 - size);
    if (got <= 0)
        exit(0);
    line[size += got] = 0;
    for (char *end; (end = strchr(line, '\n'));) {
        char one[LINE_BYTES];
        *end++ = 0;
        strcpy(one, line);
        size -= end - line;
        memmove(line, end, size + 1);
        command(one);
    }
}

static void turn(int timeout_ms) {
    struct epoll_event events[EVENTS];
    int found = epoll_wait(poller, events, EVENTS, timeout_ms);
    for (int i = 0; i < found; i++) {
        if (!events[i].data.u32) {
            commands();
            continue;
        }
        struct client *client = &clients[events[i].data.u32 - 1];
        if (client->state == CLOSED)
            continue;
        if (events[i].events & EPOLLOUT)
            writable(client);
        else if (!client->stalled || events[i].events & (EPOLLHUP | EPOLLERR))
            readable(client);
    }
}

static int walk_input(const char *prefix, size_t bytes) {
    struct client client = {.fd = -1};
    ssize_t size;
    looks.prefix = prefix, looks.prefix_bytes = strlen(prefix), looks.look_bytes = LOOK_BYTES;
    while ((size = read(0, buffer, bytes < READ_BYTES ? bytes : READ_BYTES)) > 0)
        walk(&client.walker, &looks, &client, buffer, size);
    printf("%llu %llu %zu\n", (unsigned long long)client.walker.messages,
           (unsigned long long)client.walker.payload_bytes, latency_count);
    return 0;
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (argc == 4 && !strcmp(argv[1], "walk"))
        return walk_input(argv[2], strtoul(argv[3], NULL, 10));
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    for (;;)
        turn(-1);
}
