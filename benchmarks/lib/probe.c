/* Clients of a notification server in one thread: connects them, reads everything, and notes when each event came.
 *
 *   probe ws|sse PORT COUNT TARGETS RECORDED CAPACITY [RECEIVE_BUFFER_BYTES]    connect COUNT clients to 127.0.0.1:PORT
 *   probe raw FD[,FD…] RECORDED CAPACITY                                        sockets that somebody else connected
 *
 * TARGETS is a file of request targets, one a line, taken in turn. An event is known by `"n":NUMBER` in its payload. Of
 * the first RECORDED clients it notes when each number below CAPACITY came (CLOCK_MONOTONIC, nanoseconds), of all how
 * many came, and how often a number was not the one after the last. RECORDED -1: one record for all clients, of when the
 * last of them got each number.
 *
 * Says `ready NANOSECONDS` when all were told `subscribed`, then obeys lines on standard input:
 *   wait EVENTS SECONDS   answers when so many have come to all clients together, or the time is over
 *   state                 answers at once
 *   reset                 forgets what came, answers
 *   dump FILE             writes the recorded times (int64, RECORDED rows of CAPACITY; 0: did not come), answers
 *   handshakes FILE       writes when each client was told `subscribed`, since the first connect (int64), answers
 *   stall FIRST COUNT     reads no more from these clients, answers
 *   end FIRST COUNT       closes these clients, answers
 * An answer is one line: events, disorder, repeated, late, gaps, pending gaps, closed, bytes, nanoseconds of the last event.
 * The end of standard input ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (1 << 20)
#define AT_ONCE 3500 /* the kernel's queue of a listening socket holds 4096; whom it drops comes back a second later */
#define BATCH 512

enum kind { WS, SSE, RAW };
enum state { CONNECTING, SHAKING, READING, STALLED, CLOSED };

struct client {
    int fd;
    enum state state;
    int64_t last;
    int64_t *times;
    char *rest; /* the beginning of a message whose end has not come */
    size_t rest_size, rest_room;
};

static enum kind kind;
static struct client *clients;
static int count, subscribed, recorded, poll_fd, port, receive_buffer;
static int64_t *shared; /* the one record of all */
static int64_t capacity, started, *shaken;
static char **targets;
static int target_count;
static int64_t events, disorder, repeated, late, gaps, pending, ended, bytes, last_ns;
static int64_t wanted = -1, deadline;
static char *buffer;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void answer(const char *word) {
    printf("%s %ld %ld %ld %ld %ld %ld %ld %ld %ld\n", word, events, disorder, repeated, late, gaps, pending, ended, bytes,
           last_ns);
    fflush(stdout);
}

static void watch(struct client *client, uint32_t interest, int operation) {
    struct epoll_event event = {.events = interest, .data.u32 = (uint32_t)(client - clients)};
    if (epoll_ctl(poll_fd, operation, client->fd, &event)) fail("epoll_ctl");
}

static void leave(struct client *client) {
    if (client->state == CLOSED) return;
    close(client->fd);
    client->state = CLOSED;
    ended++;
}

static void take(struct client *client, const char *at, const char *end, int64_t when) {
    int64_t number = 0;
    for (at += 4; at < end && *at >= '0' && *at <= '9'; at++) number = number * 10 + (*at - '0');
    if (number != client->last + 1) disorder++;
    client->last = number;
    if (client->times && number < capacity) {
        if (client->times[number] && !shared) repeated++;
        else client->times[number] = when;
    }
    if (kind != RAW && memmem(at, end - at, "\"late\":true", 11)) late++;
    events++;
    last_ns = when;
}

/* One whole message: an event, a gap, or anything else. */
static void message(struct client *client, const char *text, size_t size, int64_t when) {
    if (memmem(text, size < 64 ? size : 64, "\"type\":\"notification\"", 21) || kind == SSE) {
        const char *found = memmem(text, size, "\"n\":", 4);
        if (found && memmem(text, size, "\"type\":\"notification\"", 21)) {
            take(client, found, text + size, when);
            return;
        }
    }
    if (memmem(text, size, "\"type\":\"gap\"", 12)) {
        if (memmem(text, size, "\"pending\":true", 14)) pending++;
        else gaps++;
    } else if (client->state == SHAKING && memmem(text, size, "\"type\":\"subscribed\"", 19)) {
        client->state = READING;
        subscribed++;
        shaken[client - clients] = when - started;
    }
}

static void pong(struct client *client, const char *payload, size_t size) {
    char frame[2 + 4 + 125] = {(char)0x8a, (char)(0x80 | size), 0, 0, 0, 0};
    memcpy(frame + 6, payload, size);
    if (send(client->fd, frame, 6 + size, MSG_NOSIGNAL) < 0) leave(client);
}

/* How many bytes of whole messages there were. */
static size_t frames(struct client *client, const char *data, size_t size, int64_t when) {
    size_t done = 0;
    while (client->state != CLOSED && size - done >= 2) {
        const unsigned char *head = (const unsigned char *)data + done;
        size_t length = head[1] & 127, skip = 2;
        if (length == 126) {
            if (size - done < 4) break;
            length = head[2] << 8 | head[3];
            skip = 4;
        } else if (length == 127) {
            if (size - done < 10) break;
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | head[i];
            skip = 10;
        }
        if (size - done < skip + length) break;
        switch (head[0] & 15) {
        case 1: message(client, data + done + skip, length, when); break;
        case 8: leave(client); break;
        case 9: pong(client, data + done + skip, length); break;
        }
        done += skip + length;
    }
    return done;
}

static size_t blocks(struct client *client, const char *data, size_t size, int64_t when) {
    size_t done = 0;
    const char *end;
    while ((end = memmem(data + done, size - done, "\n\n", 2))) {
        message(client, data + done, end - data - done, when);
        done = end + 2 - data;
    }
    return done;
}

static size_t scan(struct client *client, const char *data, size_t size, int64_t when) {
    const char *at = data, *end = data + size, *found;
    while ((found = memmem(at, end - at, "\"n\":", 4))) {
        const char *digits = found + 4;
        while (digits < end && *digits >= '0' && *digits <= '9') digits++;
        if (digits == end) return found - data;
        take(client, found, digits, when);
        at = digits;
    }
    return end - at > 3 ? size - 3 : (size_t)(at - data);
}

static size_t head(struct client *client, const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(data, kind == WS ? "HTTP/1.1 101" : "HTTP/1.1 200", 12)) {
        fprintf(stderr, "probe: refused: %.*s\n", (int)(size < 500 ? size : 500), data);
        exit(1);
    }
    client->last = -1; /* the head was read; a number has not come yet */
    return end + 4 - data;
}

static void keep(struct client *client, const char *data, size_t size) {
    if (size > client->rest_room) {
        client->rest_room = size + 256;
        if (!(client->rest = realloc(client->rest, client->rest_room))) fail("realloc");
    }
    if (size) memcpy(client->rest, data, size);
    client->rest_size = size;
    if (!size && client->rest_room > 4096) { /* thousands of clients keep no large buffers */
        free(client->rest);
        client->rest = NULL;
        client->rest_room = 0;
    }
}

static void readable(struct client *client) {
    size_t before = client->rest_size;
    if (before > READ_BYTES) { errno = EMSGSIZE; fail("a message"); }
    if (before) memcpy(buffer, client->rest, before);
    ssize_t got = recv(client->fd, buffer + before, READ_BYTES, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        leave(client);
        return;
    }
    int64_t when = now_ns();
    bytes += got;
    size_t size = before + got, done = 0;
    if (client->last == -2 && kind != RAW && !(done = head(client, buffer, size))) {
        keep(client, buffer, size);
        return;
    }
    switch (kind) {
    case WS: done += frames(client, buffer + done, size - done, when); break;
    case SSE: done += blocks(client, buffer + done, size - done, when); break;
    case RAW: done += scan(client, buffer, size, when); break;
    }
    if (client->state != CLOSED) keep(client, buffer + done, size - done);
}

static void request(struct client *client) {
    char text[4096];
    const char *target = targets[(client - clients) % target_count];
    int size = snprintf(
        text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", target,
        kind == SSE ? "Accept: text/event-stream\r\n"
                    : "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    if (size >= (int)sizeof text || send(client->fd, text, size, MSG_NOSIGNAL) != size) fail("request");
    client->state = SHAKING;
    watch(client, EPOLLIN, EPOLL_CTL_MOD);
}

static void start_connecting(struct client *client) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (client->fd < 0) fail("socket");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (receive_buffer) setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) fail("connect");
    client->state = CONNECTING;
    watch(client, EPOLLOUT, EPOLL_CTL_ADD);
}

static void connect_all(void) {
    struct epoll_event ready[BATCH];
    int begun = 0;
    started = now_ns();
    while (subscribed < count) {
        for (int turn = 0; turn < 64 && begun < count && begun - subscribed < AT_ONCE; turn++)
            start_connecting(&clients[begun++]);
        int more = begun < count && begun - subscribed < AT_ONCE;
        int number = epoll_wait(poll_fd, ready, BATCH, more ? 0 : 30000);
        if (number < 0 && errno != EINTR) fail("epoll_wait");
        if (number == 0 && !more) { errno = ETIMEDOUT; fail("connecting"); }
        for (int i = 0; i < number; i++) {
            struct client *client = &clients[ready[i].data.u32];
            if (client->state == CONNECTING) request(client);
            else if (client->state != CLOSED) readable(client);
            if (client->state == CLOSED) { errno = ECONNRESET; fail("connecting"); }
        }
    }
}

static void write_file(const char *path, const int64_t *values, size_t number, int append) {
    FILE *file = fopen(path, append ? "ab" : "wb");
    if (!file || fwrite(values, sizeof *values, number, file) != number || fclose(file)) fail(path);
}

static void reset(void) {
    for (int i = 0; i < count; i++) {
        if (clients[i].state == READING) clients[i].last = -1;
        if (i < recorded) memset(clients[i].times, 0, capacity * sizeof(int64_t));
    }
    if (shared) memset(shared, 0, capacity * sizeof *shared);
    events = disorder = repeated = late = gaps = pending = bytes = last_ns = 0;
}

static void obey(char *line) {
    char path[4000];
    long first, number;
    double seconds;
    if (sscanf(line, "wait %ld %lf", &number, &seconds) == 2) {
        wanted = number;
        deadline = now_ns() + (int64_t)(seconds * 1e9);
        return;
    }
    if (!strcmp(line, "reset")) reset();
    else if (sscanf(line, "dump %3999s", path) == 1 && shared) write_file(path, shared, capacity, 0);
    else if (sscanf(line, "dump %3999s", path) == 1)
        for (int i = 0; i < recorded; i++) write_file(path, clients[i].times, capacity, i > 0);
    else if (sscanf(line, "handshakes %3999s", path) == 1) write_file(path, shaken, count, 0);
    else if (sscanf(line, "stall %ld %ld", &first, &number) == 2)
        for (long i = first; i < first + number && i < count; i++) {
            clients[i].state = STALLED;
            watch(&clients[i], 0, EPOLL_CTL_MOD);
        }
    else if (sscanf(line, "end %ld %ld", &first, &number) == 2)
        for (long i = first; i < first + number && i < count; i++) leave(&clients[i]);
    else if (strcmp(line, "state")) fail(line);
    answer("state");
}

static void commands(void) {
    static char line[4096];
    static size_t filled;
    ssize_t got = read(0, line + filled, sizeof line - 1 - filled);
    if (got <= 0) exit(0);
    filled += got;
    char *end;
    while ((end = memchr(line, '\n', filled))) {
        *end = 0;
        obey(line);
        filled -= end + 1 - line;
        memmove(line, end + 1, filled);
    }
}

static void read_targets(const char *path) {
    FILE *file = fopen(path, "r");
    char line[4096];
    if (!file) fail(path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!(targets = realloc(targets, (target_count + 1) * sizeof *targets))) fail("realloc");
        targets[target_count++] = strdup(line);
    }
    fclose(file);
    if (!target_count) { errno = EINVAL; fail("no targets"); }
}

static void prepare(int number) {
    count = number;
    clients = calloc(count, sizeof *clients);
    shaken = calloc(count, sizeof *shaken);
    buffer = malloc(2 * READ_BYTES);
    if (!clients || !shaken || !buffer) fail("memory");
    if (recorded > count) recorded = count;
    if (recorded < 0 && !(shared = calloc(capacity, sizeof *shared))) fail("memory");
    for (int i = 0; i < count; i++) {
        clients[i].last = -2; /* the head of the answer has not come */
        clients[i].times = shared;
        if (i < recorded && !(clients[i].times = calloc(capacity, sizeof(int64_t)))) fail("memory");
    }
}

static void adopt(char *numbers) {
    int number = 0, fds[64];
    for (char *each = strtok(numbers, ","); each && number < 64; each = strtok(NULL, ",")) fds[number++] = atoi(each);
    prepare(number);
    for (int i = 0; i < number; i++) {
        clients[i].fd = fds[i];
        clients[i].state = READING;
        clients[i].last = -1;
        watch(&clients[i], EPOLLIN, EPOLL_CTL_ADD);
    }
}

int main(int arguments, char **argument) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if ((poll_fd = epoll_create1(0)) < 0) fail("epoll");
    if (arguments == 5 && !strcmp(argument[1], "raw")) {
        kind = RAW;
        recorded = atoi(argument[3]);
        capacity = atoll(argument[4]);
        adopt(argument[2]);
    } else if (arguments >= 7) {
        kind = strcmp(argument[1], "sse") ? WS : SSE;
        port = atoi(argument[2]);
        read_targets(argument[4]);
        recorded = atoi(argument[5]);
        capacity = atoll(argument[6]);
        receive_buffer = arguments > 7 ? atoi(argument[7]) : 0;
        prepare(atoi(argument[3]));
        connect_all();
    } else {
        errno = EINVAL;
        fail("arguments");
    }
    printf("ready %ld\n", kind == RAW ? 0L : now_ns() - started);
    fflush(stdout);
    struct epoll_event ready[BATCH], input = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &input)) fail("epoll_ctl");
    for (;;) {
        int64_t left = wanted >= 0 ? (deadline - now_ns()) / 1000000 + 1 : -1;
        int number = epoll_wait(poll_fd, ready, BATCH, wanted >= 0 && left < 0 ? 0 : (int)left);
        if (number < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < number; i++) {
            if (ready[i].data.u32 == UINT32_MAX) commands();
            else if (clients[ready[i].data.u32].state == READING) readable(&clients[ready[i].data.u32]);
            else if (clients[ready[i].data.u32].state == STALLED) leave(&clients[ready[i].data.u32]);
        }
        if (wanted >= 0 && (events >= wanted || now_ns() >= deadline)) {
            wanted = -1;
            answer("state");
        }
    }
}
