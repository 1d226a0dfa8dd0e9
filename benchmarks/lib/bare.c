/* The bare limit: nothing but a loop of `send` over accepted sockets.

   bare FRAME_HEX; prints `listening PORT`. `accept N` answers N handshakes; `send MESSAGES JOINED` sends every client so
   many copies of the frame, JOINED of them in each call. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

static int sockets[65536], count;
static unsigned char frame[4096], *joined;
static size_t frame_bytes;

static void accept_all(int listener, int more) {
    char head[4096];
    for (; more > 0; more--) {
        int one = 1, number = accept(listener, NULL, NULL);
        setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        for (size_t size = 0; !memmem(head, size, "\r\n\r\n", 4);) {
            ssize_t got = recv(number, head + size, sizeof head - size, 0);
            if (got <= 0)
                exit(1);
            size += got;
        }
        if (send(number, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) < 0)
            exit(1);
        sockets[count++] = number;
    }
    printf("accepted\n");
}

static void send_all(size_t messages, size_t together) {
    joined = realloc(joined, together * frame_bytes);
    for (size_t i = 0; i < together; i++)
        memcpy(joined + i * frame_bytes, frame, frame_bytes);
    while (messages) {
        size_t now = messages < together ? messages : together;
        for (int i = 0; i < count; i++)
            if (send(sockets[i], joined, now * frame_bytes, MSG_NOSIGNAL) < 0)
                exit(1);
        messages -= now;
    }
    printf("sent\n");
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (const char *hex = argc > 1 ? argv[1] : ""; frame_bytes < sizeof frame && sscanf(hex, "%2hhx", &frame[frame_bytes]) == 1; hex += 2)
        frame_bytes++;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        return 1;
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        size_t messages, together;
        int more;
        if (sscanf(line, "accept %d", &more) == 1)
            accept_all(listener, more);
        else if (sscanf(line, "send %zu %zu", &messages, &together) == 2)
            send_all(messages, together);
        else if (!strncmp(line, "close", 5)) {
            while (count)
                close(sockets[--count]);
            printf("closed\n");
        }
        fflush(stdout);
    }
}
