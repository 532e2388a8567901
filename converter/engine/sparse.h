/* Convolutions of spikes in float32, spike by spike, where the processor can gather what is not zero (AVX-512).

   sum_o = (…((0 + w_1 x_1) + w_2 x_2) + …) + bias_o, each product added with one rounding, tap by tap and in it
   channel by channel. What is zero adds nothing, so leaving it out changes no bit of that sum. */
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const float *x;       /* [images, height, width, channels] */
    const float *weights; /* [taps, channels, outputs], of outputs as many as fill vectors; or as in scatter.h */
    const float *bias;    /* [outputs], or NULL */
    float *out;           /* [images, rows, columns, outputs] */
    int64_t images;
    int32_t channels, height, width, outputs, rows, columns;
    int32_t kernel[2], stride[2], padding[2], dilation[2];
    int32_t scatters; /* whether each spike goes to the places that see it, and not each place looks for spikes */
} Sparse;

#ifdef __AVX512F__
#include <immintrin.h>

enum { SOME = 16, BESIDE = 4 };

/* What is not zero in sight of a place: where its weights are, and its size. */
typedef struct {
    int32_t *which;
    float *size;
} List;

#define OF(p, v) sum[(p) * V + (v)]

/* P places beside each other times V vectors of outputs, all of which stay in registers. */
static inline __attribute__((always_inline)) void add_listed(const Sparse *s, const List *list, int n, int vector,
                                                             float *out, const int P, const int V) {
    const int left = s->outputs - (vector + V - 1) * SOME;
    const __mmask16 there = left >= SOME ? 0xffff : (__mmask16)((1 << left) - 1);
    const float *bias = s->bias ? s->bias + vector * SOME : NULL;
    __m512 sum[P * V];
#pragma GCC unroll 8
    for (int i = 0; i < P * V; i++) sum[i] = _mm512_setzero_ps();
    for (int e = 0; e < n; e++) {
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            const float *w = s->weights + list[p].which[e] + vector * SOME;
            const __m512 x = _mm512_set1_ps(list[p].size[e]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) OF(p, v) = _mm512_fmadd_ps(_mm512_loadu_ps(w + v * SOME), x, OF(p, v));
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            float *to = out + (int64_t)p * s->outputs + (vector + v) * SOME;
            const __mmask16 which = v < V - 1 ? 0xffff : there;
            const __m512 said = bias ? _mm512_add_ps(OF(p, v), _mm512_maskz_loadu_ps(which, bias + v * SOME)) : OF(p, v);
            _mm512_mask_storeu_ps(to, which, said);
        }
}

/* List what is not zero in sight of a place; no branch tells how many are: that could not be foreseen. */
static inline int listed(const Sparse *s, const float *image, int y, int column, int row, List list) {
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i rows = _mm512_mullo_epi32(count, _mm512_set1_epi32(row));
    const int beside = s->dilation[1] == 1 ? s->kernel[1] : 1; /* taps whose values lie side by side */
    int n = 0;
    for (int a = 0; a < s->kernel[0]; a++) {
        const int line = y * s->stride[0] - s->padding[0] + a * s->dilation[0];
        if (line < 0 || line >= s->height) continue;
        for (int b = 0; b < s->kernel[1]; b += beside) {
            const int at = column * s->stride[1] - s->padding[1] + b * s->dilation[1];
            const int from = at < 0 ? -at : 0, to = s->width - at < beside ? s->width - at : beside;
            const float *x = image + ((int64_t)line * s->width + at + from) * s->channels;
            const int first = (a * s->kernel[1] + b + from) * s->channels, wide = (to - from) * s->channels;
            for (int i = 0; i < wide; i += SOME) {
                const __mmask16 there = wide - i >= SOME ? 0xffff : (__mmask16)((1 << (wide - i)) - 1);
                const __m512 now = _mm512_maskz_loadu_ps(there, x + i);
                const __mmask16 fired = _mm512_cmp_ps_mask(now, _mm512_setzero_ps(), _CMP_NEQ_UQ);
                const __m512i which = _mm512_maskz_compress_epi32(fired, rows);
                _mm512_storeu_si512(list.which + n, _mm512_add_epi32(which, _mm512_set1_epi32((first + i) * row)));
                _mm512_storeu_ps(list.size + n, _mm512_maskz_compress_ps(fired, now));
                n += __builtin_popcount(fired);
            }
        }
    }
    return n;
}

#define SUMS(P, V) add_listed(s, list, most, vector, out, P, V)

/* The outputs of so many places beside each other, of a list each; the shorter go on with zeros. */
static void outputs_of(const Sparse *s, const List *list, int places, int most, float *out) {
    const int vectors = (s->outputs + SOME - 1) / SOME;
    for (int vector = 0; vector < vectors; vector += 8) switch (places << 4 | (vectors - vector < 8 ? vectors - vector : 8)) {
        case 4 << 4 | 1: SUMS(4, 1); break;
        case 4 << 4 | 2: SUMS(4, 2); break;
        case 2 << 4 | 3: SUMS(2, 3); break;
        case 2 << 4 | 4: SUMS(2, 4); break;
        case 1 << 4 | 1: SUMS(1, 1); break;
        case 1 << 4 | 2: SUMS(1, 2); break;
        case 1 << 4 | 3: SUMS(1, 3); break;
        case 1 << 4 | 4: SUMS(1, 4); break;
        case 1 << 4 | 5: SUMS(1, 5); break;
        case 1 << 4 | 6: SUMS(1, 6); break;
        case 1 << 4 | 7: SUMS(1, 7); break;
        default: SUMS(1, 8);
        }
}

/* A row of places. */
static void row_of(const Sparse *s, int64_t image, int y) {
    const int vectors = (s->outputs + SOME - 1) / SOME, at_once = vectors <= 2 ? 4 : vectors <= 4 ? 2 : 1;
    const int room = s->kernel[0] * s->kernel[1] * s->channels + 2 * SOME;
    const float *x = s->x + image * s->height * s->width * s->channels;
    float *out = s->out + (image * s->rows + y) * s->columns * s->outputs;
    int32_t which[BESIDE * room];
    float size[BESIDE * room];
    List list[BESIDE];
    for (int p = 0; p < BESIDE; p++) list[p] = (List){which + p * room, size + p * room};
    for (int column = 0, places; column < s->columns; column += places, out += (int64_t)places * s->outputs) {
        int n[BESIDE], most = 0;
        places = s->columns - column >= at_once ? at_once : 1;
        for (int p = 0; p < places; p++) {
            n[p] = listed(s, x, y, column + p, vectors * SOME, list[p]);
            most = n[p] > most ? n[p] : most;
        }
        for (int p = 0; p < places; p++)
            for (int i = n[p]; i < most; i += SOME) {
                _mm512_storeu_si512(list[p].which + i, _mm512_setzero_si512());
                _mm512_storeu_ps(list[p].size + i, _mm512_setzero_ps());
            }
        outputs_of(s, list, places, most, out);
    }
}

#include "scatter.h"

void sum_spikes(const Sparse *s, int threads) {
    const int64_t count = s->scatters ? s->images : s->images * s->rows;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count; i++) {
        if (s->scatters)
            scatter(s, i);
        else
            row_of(s, i / s->rows, (int)(i % s->rows));
    }
}

/* How many of the values of every so many places are not zero. */
int64_t count_floats(const float *x, int64_t places, int64_t channels, int64_t every) {
    int64_t spikes = 0;
    for (int64_t p = 0; p < places; p += every)
        for (int64_t i = 0; i < channels; i += SOME) {
            const __mmask16 there = channels - i >= SOME ? 0xffff : (__mmask16)((1 << (channels - i)) - 1);
            const __m512 now = _mm512_maskz_loadu_ps(there, x + p * channels + i);
            spikes += __builtin_popcount(_mm512_cmp_ps_mask(now, _mm512_setzero_ps(), _CMP_NEQ_UQ));
        }
    return spikes;
}
int sums_floats(void) { return 1; }
#else
void sum_spikes(const Sparse *s, int threads) { (void)s, (void)threads; }
int64_t count_floats(const float *x, int64_t places, int64_t channels, int64_t every) {
    (void)x, (void)places, (void)channels, (void)every;
    return 0;
}
int sums_floats(void) { return 0; }
#endif
