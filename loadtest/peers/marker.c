/* The load generator of the peers: it knows no protocol, only marks.

Python has opened, greeted and subscribed every socket and has made each device's request.  Every request carries marks,
"qZ", a letter, six hex digits of the device and eight of its count; whatever comes back is searched for them as a stream
of bytes, so no frame of any protocol is parsed here and all peers are measured by the same code.

  letter B   the change itself: seen by another device, it is a delivery
  letter A   something that only the answer carries (an inbox' name, a document's id); where a protocol has none, the
             device's own change may be its answer, or a pattern that is answered in the order of the requests

One thread, epoll, no locks.  Times are microseconds; an open loop counts from the intended start. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define MARK 17    /* bytes of a mark */
#define KEPT 512   /* start times a device keeps: a delivery later than so many of its own requests is "late" */
#define BUCKETS 2048
#define BUF 262144
#define OVER 64    /* the longest pattern, and what is kept of a stream for the next look */

enum { OWN_IS_ACK = 1 };
enum { ON_MAIN = 1, ON_FEED = 2 };

struct out { char *bytes; size_t from, to, size; };
struct side { int fd; int device; int kind; unsigned over; char kept[OVER]; };
struct device {
    struct side side[2];
    char *frames; uint32_t *ends; uint32_t frame_count;   /* one frame with holes, or many made beforehand */
    uint32_t *holes; uint32_t hole_count;                 /* pairs: offset, kind */
    uint32_t sent, acked, reached;                        /* reached: by both others together */
    char pattern[OVER]; uint32_t pattern_size;
    struct out out;
    double start[KEPT];
    uint32_t *heard;                                      /* of each device of the account, its last count */
    int blocked;
};
struct crowd {
    int epoll, devices, each, flags;
    struct device *device;
    char error[OVER]; uint32_t error_size;
    uint64_t random; double next;
    int sending, closed, reaching;
    uint64_t acks, deliveries, late, repeated, skipped, errors, dropped, strangers, spent;
    uint32_t ack_us[BUCKETS], delivery_us[BUCKETS];
    char said[256];
    char buffer[OVER + BUF];
};
struct result { double took_s; uint64_t sent, acks, deliveries, late, repeated, skipped, errors, dropped, strangers, spent; };

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* 64 steps a doubling: less than 1.6 % off. */
static void count(uint32_t *histogram, double us) {
    uint64_t v = us < 0 ? 0 : (uint64_t)us;
    unsigned at = v;
    if (v >= 128) {
        int shift = 63 - __builtin_clzll(v) - 6;
        at = 64 * (shift + 1) + (v >> shift) - 64;
    }
    histogram[at < BUCKETS ? at : BUCKETS - 1]++;
}

static int hex(const char *text, int digits, uint32_t *value) {
    uint32_t v = 0;
    for (int i = 0; i < digits; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9') v = v * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') v = v * 16 + (c - 'a' + 10);
        else return 0;
    }
    *value = v;
    return 1;
}

static void put_hex(char *at, uint32_t value) {
    for (int i = 7; i >= 0; i--, value >>= 4) at[i] = "0123456789abcdef"[value & 15];
}

/* A number of five bytes of seven bits, little end first, longer than it need be. */
static void put_padded(char *at, uint32_t value) {
    for (int i = 0; i < 4; i++, value >>= 7) at[i] = (char)(0x80 | (value & 127));
    at[4] = (char)(value & 127);
}

struct crowd *crowd_new(int devices, int each, int flags, const char *error, uint32_t error_size, uint64_t random) {
    struct crowd *c = calloc(1, sizeof *c);
    c->devices = devices; c->each = each; c->flags = flags; c->random = random | 1;
    c->device = calloc(devices, sizeof *c->device);
    c->epoll = epoll_create1(0);
    c->error_size = error_size < OVER ? error_size : 0;
    memcpy(c->error, error, c->error_size);
    for (int i = 0; i < devices; i++) c->device[i].side[0].fd = c->device[i].side[1].fd = -1;
    return c;
}

/* main_fd carries requests and answers; deliveries come on feed_fd, or on main_fd too when that is -1. */
int crowd_device(struct crowd *c, int i, int main_fd, int feed_fd, const char *frames, uint32_t size, const uint32_t *ends,
                 uint32_t frame_count, const uint32_t *holes, uint32_t hole_count, const char *pattern, uint32_t pattern_size,
                 uint32_t first) {
    struct device *d = &c->device[i];
    if (pattern_size >= OVER) return -1;
    d->frames = memcpy(malloc(size), frames, size);
    d->ends = memcpy(malloc(4 * frame_count), ends, 4 * frame_count);
    d->holes = memcpy(malloc(8 * hole_count + 1), holes, 8 * hole_count);
    d->frame_count = frame_count; d->hole_count = hole_count;
    d->pattern_size = pattern_size; memcpy(d->pattern, pattern, pattern_size);
    d->sent = d->acked = first;
    d->reached = first * (c->each - 1);
    d->heard = malloc(4 * c->each);
    for (int n = 0; n < c->each; n++) d->heard[n] = first;
    int fds[2] = {main_fd, feed_fd};
    int kinds[2] = {feed_fd < 0 ? ON_MAIN | ON_FEED : ON_MAIN, ON_FEED};
    for (int n = 0; n < 2; n++) {
        if (fds[n] < 0) continue;
        d->side[n] = (struct side){.fd = fds[n], .device = i, .kind = kinds[n]};
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &d->side[n]};
        if (epoll_ctl(c->epoll, EPOLL_CTL_ADD, fds[n], &e)) return -errno;
    }
    return 0;
}

static void lost(struct crowd *c, struct side *s) {
    epoll_ctl(c->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    s->fd = -1;
    c->dropped++;
}

static void flush(struct crowd *c, struct device *d) {
    struct out *o = &d->out;
    while (o->from < o->to) {
        ssize_t n = send(d->side[0].fd, o->bytes + o->from, o->to - o->from, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) { o->from = o->to; return; }
            break;
        }
        o->from += n;
    }
    int blocked = o->from < o->to;
    if (!blocked) o->from = o->to = 0;
    if (blocked != d->blocked) {
        struct epoll_event e = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = &d->side[0]};
        epoll_ctl(c->epoll, EPOLL_CTL_MOD, d->side[0].fd, &e);
        d->blocked = blocked;
    }
}

static int request(struct crowd *c, struct device *d, double start) {
    if (d->side[0].fd < 0) return 0;
    if (!d->hole_count && d->sent >= d->frame_count) { c->spent++; return 0; }
    uint32_t seq = d->sent + 1;
    uint32_t which = d->hole_count ? 0 : d->sent;
    uint32_t begin = which ? d->ends[which - 1] : 0;
    size_t size = d->ends[which] - begin;
    struct out *o = &d->out;
    if (o->to + size > o->size) {
        o->size = 2 * (o->to + size);
        o->bytes = realloc(o->bytes, o->size);
    }
    char *at = o->bytes + o->to;
    memcpy(at, d->frames + begin, size);
    for (uint32_t n = 0; n < d->hole_count; n++) {
        char *hole = at + d->holes[2 * n];
        if (d->holes[2 * n + 1] == 0) put_hex(hole, seq);
        else put_padded(hole, d->holes[2 * n + 1] == 1 ? seq : seq - 1);
    }
    o->to += size;
    d->sent = seq;
    d->start[seq % KEPT] = start;
    if (!d->blocked) flush(c, d);
    return 1;
}

/* The closed loop: the device's next request, when its last is answered (and, if asked so, has reached the others). */
static void next(struct crowd *c, struct device *d) {
    if (!c->closed || !c->sending || d->acked < d->sent) return;
    if (c->reaching && d->reached < d->sent * (uint32_t)(c->each - 1)) return;
    request(c, d, now_us());
}

static void answered(struct crowd *c, struct device *d, uint32_t seq, double at) {
    if (seq <= d->acked || seq > d->sent) return;
    d->acked = seq;
    c->acks++;
    if (d->sent - seq < KEPT) count(c->ack_us, at - d->start[seq % KEPT]);
    next(c, d);
}

static void delivered(struct crowd *c, struct device *d, uint32_t from, uint32_t seq, double at) {
    uint32_t *heard = &d->heard[from % c->each];
    if (from / c->each != (uint32_t)(d - c->device) / c->each) { c->strangers++; return; }
    if (seq <= *heard) { c->repeated++; return; }
    struct device *sender = &c->device[from];
    c->skipped += seq - *heard - 1;
    sender->reached += seq - *heard;
    *heard = seq;
    c->deliveries++;
    if (sender->sent - seq >= KEPT) c->late++;
    else count(c->delivery_us, at - sender->start[seq % KEPT]);
    if (c->reaching) next(c, sender);
}

static void look(struct crowd *c, struct side *s, const char *bytes, size_t size, size_t old, double at) {
    struct device *d = &c->device[s->device];
    const char *end = bytes + size, *p = bytes;
    while ((p = memmem(p, end - p, "qZ", 2)) && p + MARK <= end) {
        uint32_t from, seq;
        if (p + MARK > bytes + old && hex(p + 3, 6, &from) && hex(p + 9, 8, &seq) && from < (uint32_t)c->devices) {
            int own = from == (uint32_t)s->device;
            if (p[2] == 'A' && own && (s->kind & ON_MAIN)) answered(c, d, seq, at);
            if (p[2] == 'B' && own && (s->kind & ON_MAIN) && (c->flags & OWN_IS_ACK)) answered(c, d, seq, at);
            if (p[2] == 'B' && !own && (s->kind & ON_FEED)) delivered(c, d, from, seq, at);
        }
        p += 2;
    }
    if (d->pattern_size && (s->kind & ON_MAIN))
        for (p = bytes; (p = memmem(p, end - p, d->pattern, d->pattern_size)); p += d->pattern_size)
            if (p + d->pattern_size > bytes + old) answered(c, d, d->acked + 1, at);
    if (c->error_size && (s->kind & ON_MAIN))
        for (p = bytes; (p = memmem(p, end - p, c->error, c->error_size)); p += c->error_size)
            if (p + c->error_size > bytes + old) {
                if (!c->errors++) {
                    size_t n = end - p < 255 ? end - p : 255;
                    memcpy(c->said, p, n);
                }
            }
}

static void hear(struct crowd *c, struct side *s) {
    while (s->fd >= 0) {
        memcpy(c->buffer, s->kept, s->over);
        ssize_t n = recv(s->fd, c->buffer + s->over, BUF, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { lost(c, s); return; }
        size_t size = s->over + n, old = s->over;
        look(c, s, c->buffer, size, old, now_us());
        s->over = size < OVER - 1 ? size : OVER - 1;
        memcpy(s->kept, c->buffer + size - s->over, s->over);
        if (n < BUF) return;
    }
}

static double chance(struct crowd *c) {
    c->random ^= c->random << 13; c->random ^= c->random >> 7; c->random ^= c->random << 17;
    return ((c->random >> 11) + 1) / 9007199254740993.0;
}

static void due(struct crowd *c, double rate, double now, uint32_t *turn) {
    while (c->next <= now) {
        for (int tries = 0; tries < c->devices; tries++)
            if (request(c, &c->device[(*turn)++ % c->devices], c->next)) break;
        c->next += -log(chance(c)) * 1e6 / rate;
    }
}

static int all_heard(struct crowd *c) {
    for (int i = 0; i < c->devices; i++) {
        struct device *d = &c->device[i];
        if (d->side[0].fd >= 0 && d->acked < d->sent) return 0;
        int base = i / c->each * c->each;
        for (int n = 0; n < c->each; n++)
            if (base + n != i && d->side[0].fd >= 0 && c->device[base + n].sent > d->heard[n]) return 0;
    }
    return 1;
}

/* mode 0: send nothing, until everything sent is answered and delivered or the time is over; 1: closed loop, one in flight
   a device, counted from its answer; 2: open loop, Poisson, so many a second; 3: as 1, and the others must have it too.  Counts and histograms are of this call. */
void crowd_run(struct crowd *c, double seconds, int mode, double rate, struct result *r) {
    static struct epoll_event events[1024];
    double began = now_us(), until = began + seconds * 1e6;
    uint64_t sent = 0;
    uint32_t turn = 0;
    c->acks = c->deliveries = c->late = c->repeated = c->skipped = c->errors = c->dropped = c->strangers = c->spent = 0;
    memset(c->ack_us, 0, sizeof c->ack_us);
    memset(c->delivery_us, 0, sizeof c->delivery_us);
    memset(c->said, 0, sizeof c->said);
    for (int i = 0; i < c->devices; i++) sent -= c->device[i].sent;
    c->sending = mode != 0; c->closed = mode == 1 || mode == 3; c->reaching = mode == 3;
    c->next = began;
    for (int i = 0; i < c->devices; i++) next(c, &c->device[i]);
    for (double now = began; now < until; now = now_us()) {
        if (mode == 2) due(c, rate, now, &turn);
        if (mode == 0 && all_heard(c)) break;
        double wait = (mode == 2 && c->next < until ? c->next : until) - now_us();
        if (wait < 0) wait = 0;
        if (mode == 0 && wait > 5000) wait = 5000;
        struct timespec t = {(time_t)(wait / 1e6), (long)(fmod(wait, 1e6) * 1e3)};
        int n = epoll_pwait2(c->epoll, events, 1024, &t, NULL);
        for (int i = 0; i < n; i++) {
            struct side *s = events[i].data.ptr;
            if (s->fd < 0) continue;
            if (events[i].events & EPOLLOUT) flush(c, &c->device[s->device]);
            if (events[i].events & ~EPOLLOUT) hear(c, s);
        }
    }
    for (int i = 0; i < c->devices; i++) sent += c->device[i].sent;
    *r = (struct result){(now_us() - began) / 1e6, sent, c->acks, c->deliveries, c->late, c->repeated, c->skipped,
                         c->errors, c->dropped, c->strangers, c->spent};
}

const uint32_t *crowd_ack_us(struct crowd *c) { return c->ack_us; }
const uint32_t *crowd_delivery_us(struct crowd *c) { return c->delivery_us; }
const char *crowd_said(struct crowd *c) { return c->said; }

void crowd_free(struct crowd *c) {
    for (int i = 0; i < c->devices; i++) {
        struct device *d = &c->device[i];
        free(d->frames); free(d->ends); free(d->holes); free(d->heard); free(d->out.bytes);
    }
    if (c->epoll >= 0) { extern int close(int); close(c->epoll); }
    free(c->device);
    free(c);
}
