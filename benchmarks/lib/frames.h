/* Walks the WebSocket frames that a server sends: headers are read, payloads skipped.

   A message is a text or binary frame that begins with the wanted prefix; it counts when its last byte has come. What a
   frame's beginning lacks for a decision is carried over to the next read: a header, a control frame, and as much of a
   message as is to be looked at. */
#include <stdint.h>
#include <string.h>

#define LOOK_BYTES 512
#define CARRY_BYTES (LOOK_BYTES + 16)

struct walker {
    uint64_t messages;      /* whole ones */
    uint64_t payload_bytes; /* of data frames, their headers not counted */
    uint64_t skip;          /* payload bytes still to come of the frame that has begun */
    uint16_t held;          /* bytes in carry */
    uint8_t counts;         /* whether the frame that has begun is a message */
    unsigned char carry[CARRY_BYTES];
};

struct looks {
    const char *prefix; /* of the messages that count; empty for all */
    size_t prefix_bytes;
    size_t look_bytes; /* how much of a message `seen` wants; 0: it is not called */
    void (*seen)(void *context, const unsigned char *payload, size_t size);
    void (*control)(void *context, int opcode, const unsigned char *payload, size_t size);
};

/* `data` must have CARRY_BYTES of room in front of it: what was carried over is put there. */
static void walk(struct walker *w, const struct looks *looks, void *context, unsigned char *data, size_t size) {
    if (w->held) {
        data -= w->held;
        size += w->held;
        memcpy(data, w->carry, w->held);
        w->held = 0;
    }
    size_t wanted = looks->prefix_bytes > looks->look_bytes ? looks->prefix_bytes : looks->look_bytes;
    while (size) {
        if (w->skip) {
            uint64_t taken = w->skip < size ? w->skip : size;
            data += taken, size -= taken, w->skip -= taken;
            if (!w->skip)
                w->messages += w->counts;
            continue;
        }
        size_t head = 2;
        uint64_t length = 0;
        int opcode = data[0] & 15;
        if (size >= 2) {
            length = data[1] & 127;
            if (length == 126) {
                head = 4;
                length = size < 4 ? 0 : (uint64_t)data[2] << 8 | data[3];
            } else if (length == 127) {
                head = 10;
                length = 0;
                for (int i = 2; size >= 10 && i < 10; i++)
                    length = length << 8 | data[i];
            }
        }
        uint64_t needed = head + (opcode >= 8 || length < wanted ? length : wanted);
        if (size < head || size < needed) {
            memcpy(w->carry, data, size);
            w->held = size;
            return;
        }
        data += head, size -= head;
        if (opcode >= 8) {
            looks->control(context, opcode, data, length);
            data += length, size -= length;
            continue;
        }
        w->payload_bytes += length;
        w->counts = opcode != 0 && length >= looks->prefix_bytes && !memcmp(data, looks->prefix, looks->prefix_bytes);
        if (w->counts && looks->look_bytes)
            looks->seen(context, data, needed - head);
        w->skip = length;
        if (!length)
            w->messages += w->counts;
    }
}
