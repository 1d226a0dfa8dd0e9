/* Sends notifications to PostgreSQL, each its own transaction, and notes when: right before its bytes leave.
 *
 *   sender paced FD CHANNEL COUNT SUBJECTS REST FILE PER_SECOND    on an absolute schedule, waiting for no answer
 *   sender flood FD[,FD…] CHANNEL COUNT SUBJECTS REST FILE DEPTH   as fast as it goes, at most DEPTH unanswered on each
 *
 * The sockets are sessions that somebody else opened (authenticated, idle, without TLS). The payloads are
 * {"n":0,"match_id":0,REST} and so on, `match_id` modulo SUBJECTS. FILE gets the times (int64, CLOCK_MONOTONIC,
 * nanoseconds). Ends when all are committed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define SESSIONS 64
#define OUT_BYTES (1 << 16)

struct session {
    int fd;
    long unanswered;
    unsigned char head[5]; /* of the answer that is being read */
    size_t head_size, skip;
    char out[OUT_BYTES];
    size_t out_size;
};

static struct session sessions[SESSIONS];
static int session_count;
static long answered;
static const char *channel, *rest;
static long subjects;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "sender: %s: %s\n", what, strerror(errno));
    exit(1);
}

static size_t query(char *out, size_t room, long number) {
    int size = snprintf(out + 5, room - 5, "SELECT pg_notify('%s','{\"n\":%ld,\"match_id\":%ld,%s}')", channel,
                        number, number % subjects, rest);
    if (size < 0 || (size_t)size >= room - 5) fail("a payload is too long");
    uint32_t length = htonl(size + 5);
    out[0] = 'Q';
    memcpy(out + 1, &length, 4);
    return size + 6; /* with the closing zero */
}

static void flush(struct session *session) {
    while (session->out_size) {
        ssize_t sent = send(session->fd, session->out, session->out_size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (sent < 0) fail("send");
        session->out_size -= sent;
        memmove(session->out, session->out + sent, session->out_size);
    }
}

/* Read what has come, and count the answers that are complete (ReadyForQuery). */
static void drain(struct session *session) {
    unsigned char data[65536];
    ssize_t got;
    while ((got = recv(session->fd, data, sizeof data, MSG_DONTWAIT)) > 0) {
        for (ssize_t at = 0; at < got;) {
            if (session->skip) {
                size_t step = session->skip < (size_t)(got - at) ? session->skip : (size_t)(got - at);
                session->skip -= step;
                at += step;
                continue;
            }
            session->head[session->head_size++] = data[at++];
            if (session->head_size < 5) continue;
            uint32_t length;
            memcpy(&length, session->head + 1, 4);
            session->skip = ntohl(length) - 4;
            session->head_size = 0;
            if (session->head[0] == 'E') {
                fprintf(stderr, "sender: PostgreSQL refused: %.*s\n", (int)(got - at), data + at);
                exit(1);
            }
            if (session->head[0] == 'Z') {
                session->unanswered--;
                answered++;
            }
        }
    }
    if (got == 0) { errno = ECONNRESET; fail("PostgreSQL"); }
    if (got < 0 && errno != EAGAIN && errno != EINTR) fail("recv");
}

static void wait_for_any(int timeout_ms) {
    struct pollfd polled[SESSIONS];
    for (int i = 0; i < session_count; i++)
        polled[i] = (struct pollfd){.fd = sessions[i].fd, .events = POLLIN | (sessions[i].out_size ? POLLOUT : 0)};
    if (poll(polled, session_count, timeout_ms) < 0 && errno != EINTR) fail("poll");
    for (int i = 0; i < session_count; i++) {
        drain(&sessions[i]);
        flush(&sessions[i]);
    }
}

static void say(struct session *session, long number, int64_t *sent) {
    *sent = now_ns();
    session->out_size += query(session->out + session->out_size, OUT_BYTES - session->out_size, number);
    session->unanswered++;
}

static void paced(long count, double per_second, int64_t *sent) {
    int64_t start = now_ns() + 1000000;
    for (long number = 0; number < count; number++) {
        int64_t due = start + (int64_t)(number * 1e9 / per_second);
        struct timespec until = {due / 1000000000, due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        while (sessions[0].out_size > OUT_BYTES / 2) wait_for_any(1000);
        say(&sessions[0], number, &sent[number]);
        flush(&sessions[0]);
        drain(&sessions[0]);
    }
}

static void flood(long count, long depth, int64_t *sent) {
    for (long number = 0; number < count;) {
        for (int i = 0; i < session_count; i++) {
            struct session *session = &sessions[i];
            while (number < count && session->unanswered < depth && session->out_size < OUT_BYTES / 2) {
                say(session, number, &sent[number]);
                number++;
            }
            flush(session);
        }
        wait_for_any(1000);
    }
}

int main(int arguments, char **argument) {
    if (arguments != 9) { errno = EINVAL; fail("arguments"); }
    prctl(PR_SET_TIMERSLACK, 1);
    for (char *each = strtok(argument[2], ","); each && session_count < SESSIONS; each = strtok(NULL, ","))
        sessions[session_count++].fd = atoi(each);
    channel = argument[3];
    long count = atol(argument[4]);
    subjects = atol(argument[5]);
    rest = argument[6];
    int64_t *sent = calloc(count, sizeof *sent);
    if (!sent) fail("memory");
    if (!strcmp(argument[1], "paced")) paced(count, atof(argument[8]), sent);
    else flood(count, atol(argument[8]), sent);
    while (answered < count) wait_for_any(10000);
    FILE *file = fopen(argument[7], "wb");
    if (!file || fwrite(sent, sizeof *sent, count, file) != (size_t)count || fclose(file)) fail(argument[7]);
    return 0;
}
