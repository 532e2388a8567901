/* Sums of codes of 8 bits times spikes in bytes, where the processor multiplies four at once (AVX-512 VNNI).

   sum_o = start_o + sum_(tap, channel) weight · byte: whole numbers in int32, for some places of an image that lie
   in a row, so that the neurons that they charge take them out of the nearest cache. Images come with their borders,
   which hold what stands for no spike. */
#include <stdint.h>

typedef struct {
    const uint8_t *data;   /* of the first step: [images, height, width, channels] */
    const int8_t *weights; /* [planes, vectors of 16 outputs, quads, 16, 4], the highest bits first */
    const int32_t *start;  /* [planes, vectors of 16 outputs, 16] */
    const int32_t *places; /* [quads]: bytes from the first to each four */
    int64_t step, image;   /* bytes from a step, an image, to the next */
    int64_t line, pixel;   /* bytes from where a row, a column of outputs begins to the next */
    const int16_t *events; /* [runs, run, vectors of 16 outputs, 16]: the weights of one spike after the other */
    const int32_t *runs;   /* [count]: bytes from the first to where bytes lie side by side */
    int32_t outputs, rows, columns, quads, planes;
    int32_t count, run, zero, one_by_one; /* runs, bytes in each, the byte of no spike, whether by events */
} Bytes;

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI2__)
#include <immintrin.h>

enum { VECTOR = 16, PLANE = 7 };

/* In place: of the intrinsic a compiler may make copies. */
#define ADD_FOUR(SUM, BYTES, WEIGHTS) __asm__("vpdpbusd %2, %1, %0" : "+v"(SUM) : "v"(BYTES), "v"(WEIGHTS))

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define BEFORE(at, which) _mm512_slli_epi32(_mm512_maskz_loadu_epi32(which, at), PLANE)
#define BEGIN(p)                                                                                            \
    __m512i one##p = first, two##p = second;                                                                \
    if (plane && p < P) {                                                                                   \
        const int32_t *before = out + (int64_t)p * b->outputs;                                              \
        one##p = _mm512_add_epi32(one##p, BEFORE(before, V > 1 ? -1 : there));                              \
        if (V > 1) two##p = _mm512_add_epi32(two##p, BEFORE(before + VECTOR, there));                       \
    }
#define ADD(p)                                                                                              \
    if (p < P) {                                                                                            \
        const __m512i four = _mm512_set1_epi32(*(const int32_t *)(at + p * pixel));                         \
        ADD_FOUR(one##p, four, weight);                                                                     \
        if (V > 1) ADD_FOUR(two##p, four, other);                                                           \
    }
#define STORE(p)                                                                                            \
    if (p < P) {                                                                                            \
        int32_t *to = out + (int64_t)p * b->outputs;                                                        \
        if (V > 1) _mm512_storeu_si512(to, one##p);                                                         \
        if (there == 0xffff)                                                                                \
            _mm512_storeu_si512(to + (V - 1) * VECTOR, V > 1 ? two##p : one##p);                            \
        else                                                                                                \
            _mm512_mask_storeu_epi32(to + (V - 1) * VECTOR, there, V > 1 ? two##p : one##p);                \
    }

/* P places times V vectors of outputs, all of which stay in registers; `there` are those of the last vector. */
static inline __attribute__((always_inline)) void tile(const Bytes *b, const uint8_t *x, const int8_t *w, int plane,
                                                       const int32_t *start, __mmask16 there, int32_t *out,
                                                       const int P, const int V) {
    const int64_t each = (int64_t)b->quads * 64, pixel = b->pixel;
    const __m512i first = _mm512_loadu_si512(start), second = _mm512_loadu_si512(start + (V - 1) * VECTOR);
    const int32_t *place = b->places, *end = place + b->quads;
    EACH(BEGIN)
    do {
        const uint8_t *at = x + *place;
        const __m512i weight = _mm512_loadu_si512(w), other = _mm512_loadu_si512(w + (V - 1) * each);
        EACH(ADD)
        w += 64;
    } while (++place < end);
    EACH(STORE)
}

#define TILES(V)                                                                                            \
    static void tiles_##V(const Bytes *b, const uint8_t *x, int plane, int vector, int32_t *out, int count) {\
        const int all = (b->outputs + VECTOR - 1) / VECTOR * plane + vector;                                 \
        const int8_t *w = b->weights + (int64_t)all * b->quads * 64;                                        \
        const int32_t *start = b->start + all * VECTOR;                                                  \
        const int left = b->outputs - (vector + V - 1) * VECTOR;                                            \
        const __mmask16 there = left >= VECTOR ? 0xffff : (__mmask16)((1 << left) - 1);                     \
        out += vector * VECTOR;                                                                             \
        for (; count >= 8; count -= 8, x += 8 * b->pixel, out += (int64_t)8 * b->outputs)                   \
            tile(b, x, w, plane, start, there, out, 8, V);                                                         \
        switch (count) {                                                                                    \
        case 1: tile(b, x, w, plane, start, there, out, 1, V); break;                                              \
        case 2: tile(b, x, w, plane, start, there, out, 2, V); break;                                              \
        case 3: tile(b, x, w, plane, start, there, out, 3, V); break;                                              \
        case 4: tile(b, x, w, plane, start, there, out, 4, V); break;                                              \
        case 5: tile(b, x, w, plane, start, there, out, 5, V); break;                                              \
        case 6: tile(b, x, w, plane, start, there, out, 6, V); break;                                              \
        case 7: tile(b, x, w, plane, start, there, out, 7, V); break;                                              \
        }                                                                                                   \
    }
TILES(1)
TILES(2)
#undef ADD

#include "events.h"

/* The sums of `count` places from `first` on, in some steps: [steps, count, outputs]. */
static void sum_bytes(const Bytes *b, int64_t step, int steps, int64_t first, int count, int32_t *out) {
    const int vectors = (b->outputs + VECTOR - 1) / VECTOR;
    const int64_t each = (int64_t)count * b->outputs;
    while (count > 0) {
        const int64_t image = first / ((int64_t)b->rows * b->columns), place = first % ((int64_t)b->rows * b->columns);
        const int64_t row = place / b->columns, column = place % b->columns;
        const int n = count < b->columns - column ? count : (int)(b->columns - column);
        const uint8_t *x = b->data + step * b->step + image * b->image + row * b->line + column * b->pixel;
        for (int s = 0; s < steps && b->one_by_one; s++) sum_events(b, x + s * b->step, n, out + s * each);
        for (int v = 0; v < vectors && !b->one_by_one; v += 2)
            for (int plane = 0; plane < b->planes; plane++)
                for (int s = 0; s < steps; s++)
                    (vectors - v >= 2 ? tiles_2 : tiles_1)(b, x + s * b->step, plane, v, out + s * each, n);
        out += (int64_t)n * b->outputs;
        first += n;
        count -= n;
    }
}

/* All places of a step, for measurements. */
void weigh_places(const Bytes *b, int64_t places, int32_t *out) { sum_bytes(b, 0, 1, 0, (int)places, out); }
int sums_bytes(void) { return 1; }
#else
static void sum_bytes(const Bytes *b, int64_t step, int steps, int64_t first, int count, int32_t *out) {
    (void)b, (void)step, (void)steps, (void)first, (void)count, (void)out;
}
void weigh_places(const Bytes *b, int64_t places, int32_t *out) { (void)b, (void)places, (void)out; }
int sums_bytes(void) { return 0; }
#endif
