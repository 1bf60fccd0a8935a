/* The hot loop of the load generator: many open WebSockets of signed-in devices, driven by one thread.
 *
 * pump.py opens the sockets, signs in, enters, follows, and seals every draft beforehand; what is left is here: send
 * the next frame, read what comes, and note when.  Closed loop: each device keeps so many appends in flight.  Open
 * loop: appends begin at random moments of a given rate, whether the hub keeps up or not, and times count from the
 * moment that was intended (no coordinated omission).
 *
 * A draft's frame is the same number of bytes for all of a run.  Its request number is REQUEST_FIRST + its place in
 * the device's pool, and the last eight bytes of its change_id are u32 device, u32 place: so whoever receives it knows
 * when it was to begin.  Nothing is allocated after pump_add.  One thread at a time may be in here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_FIRST 65536u
#define IN_BYTES (1u << 20)      /* the largest frame a hub may send is far smaller */
#define OUT_BYTES 262144u        /* what one socket has not taken yet */
#define STRIDE_MAX 60000u
#define EVENTS 512
#define STEPS 128                /* of a histogram, for each power of two: within 0.8 percent */
#define BUCKETS (STEPS * 36)     /* up to 2^42 ns, more than an hour */
#define CHANGE_ID_AT 56          /* in the header of a sealed change */
#define HEADER_BYTES 112
#define APPENDS_IN_FLIGHT_MAX 4u /* the protocol's */
#define KEPT 512
#define MANY 256                 /* devices: from so many on a closed loop takes naps */
#define CLOSED_NAP_NS 500000
#define BUSY_GAP_NS 300000       /* between appends: when they come faster, an open loop takes naps */
#define OPEN_NAP_NS 100000

typedef struct {
    uint64_t sent, acked, refused, delivered, placed; /* placed: the writer learnt its own change's seq */
    uint64_t gaps, duplicates, mismatched;            /* in seqs; a seq that is not the one that was acknowledged */
    uint64_t unknown, others, pings, closed;          /* frames that cannot be read; of another type; ... */
    uint64_t frames_in, frames_out, bytes_in, bytes_out, reads, writes;
    uint64_t wall_ns, cpu_ns; /* of this thread, inside pump_run and pump_drain */
} counts_t;

typedef struct {
    uint64_t count, max_ns, sum_ns;
    uint32_t bucket[BUCKETS];
} histogram_t;

typedef struct {
    int fd, writable, reads, stuck, close_code; /* stuck: a refusal ended its writing */
    uint32_t account, index;
    const uint8_t *pool; /* unmasked payloads of append messages, one behind the other */
    uint32_t drafts, due, sent, in_flight;
    uint64_t *start; /* when each draft was to begin */
    uint32_t *seq;   /* what the log gave each draft, as whoever heard it first heard it */
    uint64_t upto;   /* the log is known up to here */
    uint8_t collection_id[16];
    uint8_t *in, *out;
    uint32_t in_used, out_used;
} device_t;

typedef struct {
    counts_t counts;
    histogram_t ack, delivery, lag;
    uint8_t odd[KEPT]; /* the first refusal or unexpected message */
    uint32_t odd_bytes, dry;
    /* not for pump.py */
    uint32_t devices, used, stride, in_flight, *order, ordered;
    uint64_t from, until, random, next, armed;
    double gap_ns;
    long nap_ns;
    int epoll, timer, open_loop, stopped;
    uint8_t pong[32];
    uint32_t pong_bytes, out_used;
    device_t *device;
    uint8_t scratch[IN_BYTES + 16], out[OUT_BYTES + 4096];
} pump_t;

/* --- time, chance, histograms ------------------------------------------------------------------------------------ */

static uint64_t clock_ns(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static uint64_t chance(pump_t *p) {
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return p->random;
}

static void note(histogram_t *h, uint64_t ns) {
    uint32_t shift = ns < STEPS ? 0 : (uint32_t)(63 - __builtin_clzll(ns)) - 7;
    uint64_t at = ns < STEPS ? ns : (uint64_t)(shift + 1) * STEPS + ((ns >> shift) & (STEPS - 1));
    h->bucket[at < BUCKETS ? at : BUCKETS - 1]++;
    h->count++;
    h->sum_ns += ns;
    if (ns > h->max_ns) h->max_ns = ns;
}

static void note_since(const pump_t *p, histogram_t *h, uint64_t start, uint64_t now) {
    if (start >= p->from && start < p->until) note(h, now > start ? now - start : 0);
}

/* --- frames out -------------------------------------------------------------------------------------------------- */

static void watch(pump_t *p, device_t *d, int writable) {
    struct epoll_event e = {.data.u32 = d->index};
    e.events = (d->reads ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u) | EPOLLRDHUP | EPOLLET;
    d->writable = writable;
    epoll_ctl(p->epoll, EPOLL_CTL_MOD, d->fd, &e);
}

static void lose(pump_t *p, device_t *d) {
    if (d->fd < 0) return;
    epoll_ctl(p->epoll, EPOLL_CTL_DEL, d->fd, NULL);
    d->fd = -1; /* pump.py has it and closes it */
    p->counts.closed++;
}

/* One masked frame behind what this wake-up sends already; the caller has looked for room. */
static void frame(pump_t *p, int opcode, const uint8_t *payload, uint32_t size) {
    uint8_t *at = p->out + p->out_used;
    uint32_t mask = (uint32_t)chance(p);
    uint64_t wide = (uint64_t)mask << 32 | mask, word;
    *at++ = (uint8_t)(0x80 | opcode);
    if (size < 126) {
        *at++ = (uint8_t)(0x80 | size);
    } else {
        *at++ = 0x80 | 126;
        *at++ = (uint8_t)(size >> 8);
        *at++ = (uint8_t)size;
    }
    memcpy(at, &mask, 4);
    at += 4;
    uint32_t n = 0;
    for (; n + 8 <= size; n += 8) {
        memcpy(&word, payload + n, 8);
        word ^= wide;
        memcpy(at + n, &word, 8);
    }
    for (; n < size; n++) at[n] = payload[n] ^ ((uint8_t *)&mask)[n & 3];
    p->out_used = (uint32_t)(at + size - p->out);
    p->counts.frames_out++;
}

/* Give the socket what is gathered; what it does not take waits in the device's own buffer. */
static void flush(pump_t *p, device_t *d) {
    if (d->fd < 0) p->out_used = d->out_used = 0;
    if (d->out_used) { /* older bytes first */
        if (d->out_used + p->out_used > OUT_BYTES) return lose(p, d);
        memcpy(d->out + d->out_used, p->out, p->out_used);
        d->out_used += p->out_used;
    }
    const uint8_t *from = d->out_used ? d->out : p->out;
    uint32_t size = d->out_used ? d->out_used : p->out_used;
    p->out_used = 0;
    if (!size) return;
    ssize_t took = send(d->fd, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    p->counts.writes++;
    if (took < 0) {
        if (errno != EAGAIN && errno != EINTR) return lose(p, d);
        took = 0;
    }
    p->counts.bytes_out += (uint64_t)took;
    d->out_used = size - (uint32_t)took;
    if (d->out_used) memmove(d->out, from + took, d->out_used);
    if ((d->out_used != 0) != d->writable) watch(p, d, d->out_used != 0);
}

/* Send what is due and may be in flight. */
static void fill(pump_t *p, device_t *d, uint64_t now) {
    if (d->fd < 0 || d->stuck || p->stopped || (!p->open_loop && now >= p->until)) return;
    while (d->in_flight < p->in_flight && p->out_used + p->stride + 64 < OUT_BYTES) {
        if (p->open_loop ? d->sent >= d->due : d->sent >= d->drafts) {
            if (!p->open_loop) p->dry = 1;
            return;
        }
        if (!p->open_loop) d->start[d->sent] = now;
        frame(p, 2, d->pool + (size_t)d->sent * p->stride, p->stride);
        d->sent++;
        d->in_flight++;
        p->counts.sent++;
    }
}

/* --- MessagePack, as much as is needed ----------------------------------------------------------------------------
 * ``bad`` is set instead of reading past the end; what is read then is 0.                                            */

typedef struct {
    const uint8_t *at, *end;
    int bad;
} reader_t;

static uint64_t take(reader_t *r, int size) {
    uint64_t value = 0;
    if (r->end - r->at < size) {
        r->bad = 1;
        return 0;
    }
    while (size--) value = value << 8 | *r->at++;
    return value;
}

static const uint8_t *take_bytes(reader_t *r, uint64_t size) {
    const uint8_t *at = r->at;
    if ((uint64_t)(r->end - r->at) < size) {
        r->bad = 1;
        return NULL;
    }
    r->at += size;
    return at;
}

static uint64_t number(reader_t *r) {
    uint8_t kind = (uint8_t)take(r, 1);
    if (kind < 0x80) return kind;
    if (kind >= 0xcc && kind <= 0xcf) return take(r, 1 << (kind - 0xcc));
    r->bad = 1;
    return 0;
}

static const uint8_t *text(reader_t *r, uint64_t *size) {
    uint8_t kind = (uint8_t)take(r, 1);
    if ((kind & 0xe0) == 0xa0)
        *size = kind & 0x1f;
    else if (kind >= 0xd9 && kind <= 0xdb)
        *size = take(r, 1 << (kind - 0xd9));
    else
        r->bad = 1, *size = 0;
    return take_bytes(r, *size);
}

static const uint8_t *binary(reader_t *r, uint64_t *size) {
    uint8_t kind = (uint8_t)take(r, 1);
    if (kind >= 0xc4 && kind <= 0xc6)
        *size = take(r, 1 << (kind - 0xc4));
    else
        r->bad = 1, *size = 0;
    return take_bytes(r, *size);
}

static uint64_t many(reader_t *r, uint8_t fix, uint8_t wide) { /* elements of an array, pairs of a map */
    uint8_t kind = (uint8_t)take(r, 1);
    if ((kind & 0xf0) == fix) return kind & 0x0f;
    if (kind == wide) return take(r, 2);
    if (kind == wide + 1) return take(r, 4);
    r->bad = 1;
    return 0;
}

#define ARRAY 0x90, 0xdc
#define MAP 0x80, 0xde

static void skip(reader_t *r) {
    uint64_t left = 1, size;
    while (left-- && !r->bad) {
        uint8_t kind = r->at < r->end ? *r->at : 0xc1;
        if (kind <= 0x7f || kind >= 0xe0 || kind == 0xc0 || kind == 0xc2 || kind == 0xc3)
            r->at++;
        else if ((kind & 0xf0) == 0x80 || kind == 0xde || kind == 0xdf)
            left += 2 * many(r, MAP);
        else if ((kind & 0xf0) == 0x90 || kind == 0xdc || kind == 0xdd)
            left += many(r, ARRAY);
        else if ((kind & 0xe0) == 0xa0 || (kind >= 0xd9 && kind <= 0xdb))
            text(r, &size);
        else if (kind >= 0xc4 && kind <= 0xc6)
            binary(r, &size);
        else if (kind >= 0xca && kind <= 0xd3)
            r->at++, take_bytes(r, kind == 0xca ? 4u : kind == 0xcb ? 8u : 1u << ((kind - 0xcc) & 3));
        else
            r->bad = 1;
    }
}

static int is(const uint8_t *word, uint64_t size, const char *name) {
    return word && size == strlen(name) && !memcmp(word, name, size);
}

/* --- what comes in ------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t request, after, upto, seq;
    const uint8_t *type, *collection_id, *code;
    uint64_t type_size, code_size;
    reader_t list; /* of answers or changes */
    int bad;
} message_t;

static message_t understand(const uint8_t *payload, uint64_t size) {
    message_t m = {0};
    reader_t r = {payload, payload + size, 0};
    uint64_t pairs = many(&r, MAP), length;
    while (pairs-- && !r.bad) {
        const uint8_t *key = text(&r, &length);
        if (is(key, length, "type"))
            m.type = text(&r, &m.type_size);
        else if (is(key, length, "request"))
            m.request = number(&r);
        else if (is(key, length, "after"))
            m.after = number(&r);
        else if (is(key, length, "upto"))
            m.upto = number(&r);
        else if (is(key, length, "collection_id")) {
            m.collection_id = binary(&r, &length);
            r.bad |= length != 16;
        } else if (is(key, length, "answers") || is(key, length, "changes")) {
            m.list = r;
            skip(&r);
        } else
            skip(&r);
    }
    m.bad = r.bad || !m.type || r.at != r.end;
    return m;
}

static void remember(pump_t *p, const uint8_t *payload, uint64_t size) {
    if (p->odd_bytes) return;
    p->odd_bytes = (uint32_t)(size < KEPT ? size : KEPT);
    memcpy(p->odd, payload, p->odd_bytes);
}

/* A draft has this place in the log: the same, whoever says it. */
static void place(pump_t *p, device_t *d, uint32_t draft, uint64_t seq) {
    if (!d->seq[draft])
        d->seq[draft] = (uint32_t)seq;
    else if (d->seq[draft] != seq)
        p->counts.mismatched++;
}

static int appended(pump_t *p, device_t *d, message_t *m, uint64_t now) {
    uint64_t draft = m->request - REQUEST_FIRST, seq = 0, length;
    if (m->request < REQUEST_FIRST || draft >= d->sent || !d->in_flight) return 0;
    reader_t *r = &m->list;
    if (many(r, ARRAY) != 1) return 0;
    for (uint64_t pairs = many(r, MAP); pairs-- && !r->bad;) {
        const uint8_t *key = text(r, &length);
        if (is(key, length, "seq"))
            seq = number(r);
        else
            skip(r);
    }
    if (r->bad) return 0;
    d->in_flight--;
    if (!seq) { /* refused: its followers would come out of order, so this device writes no more */
        p->counts.refused++;
        d->stuck = 1;
        return -1;
    }
    p->counts.acked++;
    place(p, d, (uint32_t)draft, seq);
    note_since(p, &p->ack, d->start[draft], now);
    return 1;
}

static int changed(pump_t *p, device_t *d, message_t *m, uint64_t now) {
    reader_t *r = &m->list;
    uint64_t size;
    if (!m->collection_id || memcmp(m->collection_id, d->collection_id, 16)) return 0;
    if (m->after > d->upto) p->counts.gaps++;
    if (m->after < d->upto) p->counts.duplicates++;
    d->upto = m->after;
    for (uint64_t left = many(r, ARRAY); left-- && !r->bad;) {
        if (many(r, ARRAY) != 3) return 0;
        uint64_t seq = number(r);
        number(r);
        const uint8_t *sealed = binary(r, &size);
        if (r->bad) return 0;
        if (seq > d->upto + 1) p->counts.gaps++;
        if (seq <= d->upto) p->counts.duplicates++;
        d->upto = seq;
        if (!size) { /* its own */
            p->counts.placed++;
            continue;
        }
        if (size < HEADER_BYTES) return 0;
        reader_t id = {sealed + CHANGE_ID_AT + 8, sealed + CHANGE_ID_AT + 16, 0};
        uint32_t writer = (uint32_t)take(&id, 4), draft = (uint32_t)take(&id, 4);
        if (writer >= p->used || p->device[writer].account != d->account || draft >= p->device[writer].sent) return 0;
        p->counts.delivered++;
        place(p, &p->device[writer], draft, seq);
        note_since(p, &p->delivery, p->device[writer].start[draft], now);
    }
    if (m->upto != d->upto) p->counts.gaps++;
    d->upto = m->upto;
    return !r->bad;
}

static void message(pump_t *p, device_t *d, const uint8_t *payload, uint64_t size, uint64_t now) {
    message_t m = understand(payload, size);
    int known = 0;
    if (m.bad)
        known = 0;
    else if (is(m.type, m.type_size, "appended"))
        known = appended(p, d, &m, now);
    else if (is(m.type, m.type_size, "changes"))
        known = changed(p, d, &m, now);
    else if (is(m.type, m.type_size, "ping")) {
        p->counts.pings++;
        frame(p, 2, p->pong, p->pong_bytes);
        return;
    } else if (is(m.type, m.type_size, "refused")) {
        p->counts.refused++;
        if (d->in_flight) d->in_flight--;
        d->stuck = 1;
        known = -1;
    } else {
        p->counts.others++;
        known = -1;
    }
    if (!known) p->counts.unknown++;
    if (known <= 0) remember(p, payload, size);
}

/* The whole frames in these bytes; how many bytes they were. */
static uint32_t frames(pump_t *p, device_t *d, const uint8_t *bytes, uint32_t size, uint64_t now) {
    uint32_t done = 0;
    while (size - done >= 2 && d->fd >= 0) {
        const uint8_t *at = bytes + done;
        reader_t r = {at + 2, bytes + size, 0};
        uint64_t length = at[1] & 127;
        if (length >= 126) length = take(&r, length == 126 ? 2 : 8);
        const uint8_t *payload = r.bad ? NULL : take_bytes(&r, length);
        if (r.bad) break;
        done = (uint32_t)(r.at - bytes);
        p->counts.frames_in++;
        /* A ping or two and the appends that may be in flight fit; whoever says more than that is not answered. */
        if (p->out_used > OUT_BYTES - 4096) flush(p, d);
        if (at[0] == 0x82)
            message(p, d, payload, length, now);
        else if (at[0] == 0x89 && length < 126)
            frame(p, 10, payload, (uint32_t)length);
        else if (at[0] == 0x88) {
            d->close_code = length >= 2 ? payload[0] << 8 | payload[1] : 1005;
            lose(p, d);
        } else
            p->counts.unknown++;
    }
    return done;
}

/* Read what there is: all of it, since an edge does not come twice; ``ended``: up to the end. */
static void came(pump_t *p, device_t *d, int ended) {
    uint64_t now = 0;
    for (int again = 1; again && d->fd >= 0;) {
        if (d->in_used) memcpy(p->scratch, d->in, d->in_used);
        ssize_t got = recv(d->fd, p->scratch + d->in_used, IN_BYTES - d->in_used, MSG_DONTWAIT);
        p->counts.reads++;
        if (got <= 0) {
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
            lose(p, d);
            break;
        }
        uint32_t size = d->in_used + (uint32_t)got;
        again = ended || size == IN_BYTES;
        p->counts.bytes_in += (uint64_t)got;
        now = now_ns();
        uint32_t done = frames(p, d, p->scratch, size, now);
        d->in_used = size - done;
        if (d->in_used == IN_BYTES) lose(p, d); /* no frame is that large */
        if (d->in_used) memcpy(d->in, p->scratch + done, d->in_used);
    }
    if (now) fill(p, d, now);
    flush(p, d);
}

/* --- the loop ------------------------------------------------------------------------------------------------------ */

static int can_write(const device_t *d) { return d->fd >= 0 && d->reads && !d->stuck; }

/* Make the drafts due whose moment has come; the devices write in turn, in another random order each round. */
static void schedule(pump_t *p, uint64_t now) {
    while (p->next <= now) {
        if (p->ordered == p->used) {
            for (uint32_t n = p->used - 1; n; n--) {
                uint32_t other = (uint32_t)(chance(p) % (n + 1)), swap = p->order[n];
                p->order[n] = p->order[other], p->order[other] = swap;
            }
            p->ordered = 0;
        }
        device_t *d = &p->device[p->order[p->ordered++]];
        if (can_write(d)) {
            if (d->due == d->drafts) {
                p->dry = 1;
                return;
            }
            d->start[d->due++] = p->next;
            note(&p->lag, now - p->next);
            fill(p, d, now);
            flush(p, d);
        }
        double even = (double)((chance(p) >> 11) + 1) / 9007199254740993.0;
        p->next += (uint64_t)(-log(even) * p->gap_ns) + 1;
    }
}

static void turn(pump_t *p, uint64_t until) {
    struct epoll_event events[EVENTS];
    uint64_t wake = p->open_loop && p->next < until ? p->next : until, late;
    struct itimerspec at = {.it_value = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)}};
    if (wake != p->armed) timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &at, NULL);
    p->armed = wake;
    /* Woken for each of the hub's writes, we would spend most of our time on waking, and it is the hub's time. */
    if (p->nap_ns && !p->stopped) nanosleep(&(struct timespec){.tv_nsec = p->nap_ns}, NULL);
    int n = epoll_wait(p->epoll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == UINT32_MAX) {
            if (read(p->timer, &late, sizeof late) > 0) p->armed = 0;
            continue;
        }
        device_t *d = &p->device[events[i].data.u32];
        if (d->fd < 0) continue;
        uint32_t ended = events[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP);
        if (ended || events[i].events & EPOLLIN)
            came(p, d, ended != 0); /* the last words of a hub that hung up are read in any case */
        else
            flush(p, d);
    }
}

static int complete(const pump_t *p, uint32_t followers) {
    const counts_t *c = &p->counts;
    return c->sent == c->acked + c->refused && c->delivered + c->placed >= c->acked * followers;
}

/* Appends for so many seconds, from now on: at ``rate`` a second, or with 0 as soon as one is answered.  What begins
 * in this time is in the histograms, which are emptied first.  0, or 1 when a pool was dry before the end. */
int pump_run(pump_t *p, double seconds, double rate, uint32_t in_flight) {
    uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), begin = now_ns(), now = begin;
    memset(&p->ack, 0, 3 * sizeof(histogram_t));
    p->from = begin;
    p->until = begin + (uint64_t)(seconds * 1e9);
    p->open_loop = rate > 0;
    p->gap_ns = rate > 0 ? 1e9 / rate : 0;
    p->next = begin;
    p->nap_ns = rate > 0 ? (p->gap_ns < BUSY_GAP_NS ? OPEN_NAP_NS : 0) : p->used >= MANY ? CLOSED_NAP_NS : 0;
    p->in_flight = rate > 0 || in_flight > APPENDS_IN_FLIGHT_MAX ? APPENDS_IN_FLIGHT_MAX : in_flight;
    p->stopped = p->dry = 0;
    for (uint32_t i = 0; i < p->used; i++) {
        device_t *d = &p->device[i];
        d->due = d->sent;
        if (p->open_loop || !d->reads) continue;
        fill(p, d, now_ns());
        flush(p, d);
    }
    while (now < p->until && !p->dry) {
        if (p->open_loop) schedule(p, now);
        if (!p->dry) turn(p, p->until);
        now = now_ns();
    }
    p->until = now < p->until ? now : p->until;
    p->stopped = 1;
    p->counts.wall_ns += now - begin;
    p->counts.cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    return (int)p->dry;
}

/* Only answer, for so many seconds, or (``followers`` not 0) until every append was acknowledged and each of an
 * account's followers has heard of it.  What was due and not sent yet is sent.  Whether it came to that. */
int pump_drain(pump_t *p, double seconds, uint32_t followers) {
    uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), begin = now_ns(), now = begin;
    uint64_t until = begin + (uint64_t)(seconds * 1e9);
    if (p->open_loop) {
        p->stopped = 0;
        p->next = UINT64_MAX;
    }
    int waiting = 0;
    do {
        waiting = 0;
        for (uint32_t i = 0; p->open_loop && !waiting && i < p->used; i++)
            waiting = can_write(&p->device[i]) && p->device[i].sent < p->device[i].due;
        if (followers && !waiting && complete(p, followers)) break;
        turn(p, until);
        now = now_ns();
    } while (now < until);
    p->stopped = 1;
    p->counts.wall_ns += now - begin;
    p->counts.cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    return followers && !waiting && complete(p, followers);
}

/* Give a device another pool, when all it has sent is answered and delivered; 0, or -1 when there is no memory. */
int pump_refill(pump_t *p, uint32_t index, const uint8_t *pool, uint32_t drafts) {
    device_t *d = &p->device[index];
    free(d->start);
    free(d->seq);
    d->start = calloc(drafts + 1, sizeof *d->start);
    d->seq = calloc(drafts + 1, sizeof *d->seq);
    d->pool = pool;
    d->drafts = d->start && d->seq ? drafts : 0;
    d->sent = d->due = 0;
    return d->drafts == drafts ? 0 : -1;
}

/* Let one device read or not; while it does not it writes nothing either. */
void pump_read(pump_t *p, uint32_t index, int reads) {
    device_t *d = &p->device[index];
    d->reads = reads;
    if (d->fd >= 0) watch(p, d, d->writable);
}

/* The closing a device was told (1006: none, 0: it is connected). */
int pump_closing(const pump_t *p, uint32_t index) {
    const device_t *d = &p->device[index];
    return d->fd >= 0 ? 0 : d->close_code ? d->close_code : 1006;
}

uint64_t pump_upto(const pump_t *p, uint32_t index) { return p->device[index].upto; }

/* How many drafts of its pool a device has sent. */
uint32_t pump_sent(const pump_t *p, uint32_t index) { return p->device[index].sent; }

/* --- beginning and end ---------------------------------------------------------------------------------------------- */

void pump_free(pump_t *p) {
    if (!p) return;
    for (uint32_t i = 0; p->device && i < p->used; i++) {
        free(p->device[i].start);
        free(p->device[i].seq);
        free(p->device[i].in);
        free(p->device[i].out);
    }
    if (p->epoll >= 0) close(p->epoll);
    if (p->timer >= 0) close(p->timer);
    free(p->device);
    free(p->order);
    free(p);
}

/* NULL: no memory or no descriptor is left. */
pump_t *pump_new(uint32_t devices, uint32_t stride, uint64_t random, const uint8_t *pong, uint32_t pong_bytes) {
    pump_t *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    p->device = calloc(devices, sizeof *p->device);
    p->order = calloc(devices, sizeof *p->order);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    int fits = stride < STRIDE_MAX && pong_bytes <= sizeof p->pong;
    if (!fits || !p->device || !p->order || p->epoll < 0 || p->timer < 0 ||
        epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->timer, &e)) {
        pump_free(p);
        return NULL;
    }
    p->devices = devices;
    p->stride = stride;
    p->random = random | 1;
    p->stopped = 1;
    memcpy(p->pong, pong, pong_bytes);
    p->pong_bytes = pong_bytes;
    return p;
}

/* The next device; its index, or -1.  ``pool`` and ``fd`` stay the caller's and must outlive the pump.  ``left`` is what
 * was read behind the answer to subscribe. */
int pump_add(pump_t *p, int fd, uint32_t account, const uint8_t *collection_id, uint64_t upto, const uint8_t *pool,
             uint32_t drafts, const uint8_t *left, uint32_t left_bytes) {
    if (p->used == p->devices || left_bytes > IN_BYTES / 2) return -1;
    uint32_t index = p->used;
    device_t *d = &p->device[index];
    d->fd = fd, d->index = index, d->account = account, d->upto = upto;
    d->reads = 1;
    memcpy(d->collection_id, collection_id, 16);
    d->in = malloc(IN_BYTES); /* untouched pages cost nothing */
    d->out = malloc(OUT_BYTES);
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = index};
    p->used++; /* from here on pump_free knows it */
    if (!d->in || !d->out || pump_refill(p, index, pool, drafts) || epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &e)) return -1;
    p->order[index] = index;
    p->ordered = p->used;
    memcpy(d->in, left, left_bytes);
    uint32_t done = frames(p, d, d->in, left_bytes, now_ns());
    d->in_used = left_bytes - done;
    memmove(d->in, d->in + done, d->in_used);
    flush(p, d);
    return (int)index;
}
