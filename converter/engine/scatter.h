/* The same for kernels of 3x3 that go place by place: each spike is added to the nine places that see it.

   Rows and in them values come in order, so each sum has its terms in the order in which a place would look at them.
   Three rows of sums lie near, with a column more at either side, so that no border is an exception; those of three
   columns are in registers. Weights are [passes, channels, 9, outputs of a pass]. */

/* Vectors of outputs that a pass takes, of so many, after so many. */
static inline int together(int vectors, int first) { return vectors == 3 ? 3 : vectors - first > 1 ? 2 : 1; }

/* A row of values to the sums of three rows, one for each row of the kernel. */
static inline __attribute__((always_inline)) void spread(const Sparse *s, const float *x, const float *weights,
                                                         float *const sums[3], const int V) {
    __m512 a[3][3][3];
#define SUMS_OF(y, c, v) (sums[y] + ((int64_t)(c) * V + (v)) * SOME)
#define ROWS _Pragma("GCC unroll 3") for (int y = 0; y < 3; y++)
#define COLUMNS _Pragma("GCC unroll 3") for (int c = 0; c < 3; c++)
#define VECTORS _Pragma("GCC unroll 3") for (int v = 0; v < V; v++)
    ROWS COLUMNS VECTORS a[y][c][v] = _mm512_loadu_ps(SUMS_OF(y, c, v));
    for (int column = 0; column < s->width; column++, x += s->channels) {
        for (int i = 0; i < s->channels; i += SOME) {
            const int left = s->channels - i;
            const __mmask16 there = left >= SOME ? 0xffff : (__mmask16)((1 << left) - 1);
            const __m512 values = _mm512_maskz_loadu_ps(there, x + i);
            unsigned fired = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
            for (; fired; fired &= fired - 1) {
                const int channel = i + __builtin_ctz(fired);
                const float *w = weights + (int64_t)channel * 9 * V * SOME;
                const __m512 now = _mm512_set1_ps(x[channel]);
                ROWS COLUMNS VECTORS a[y][2 - c][v] =
                    _mm512_fmadd_ps(_mm512_loadu_ps(w + ((y * 3 + c) * V + v) * SOME), now, a[y][2 - c][v]);
            }
        }
        ROWS VECTORS {
            _mm512_storeu_ps(SUMS_OF(y, column, v), a[y][0][v]);
            a[y][0][v] = a[y][1][v];
            a[y][1][v] = a[y][2][v];
            a[y][2][v] = _mm512_loadu_ps(SUMS_OF(y, column + 3, v));
        }
    }
    ROWS VECTORS {
        _mm512_storeu_ps(SUMS_OF(y, s->width, v), a[y][0][v]);
        _mm512_storeu_ps(SUMS_OF(y, s->width + 1, v), a[y][1][v]);
    }
}

#define SPREAD(V)                                                                                           \
    static void spread_##V(const Sparse *s, const float *x, const float *w, float *const sums[3]) {         \
        spread(s, x, w, sums, V);                                                                           \
    }
SPREAD(1)
SPREAD(2)
SPREAD(3)

/* A row of sums that is complete, with the bias: its places from the column on that the padding leaves. */
static void finish(const Sparse *s, const float *sums, int first, int V, float *out) {
    const int left = s->outputs - first * SOME;
    sums += (int64_t)(2 - s->padding[1]) * V * SOME;
    for (int column = 0; column < s->columns; column++, out += s->outputs)
        for (int v = 0; v < V; v++, sums += SOME) {
            const __mmask16 there = left - v * SOME >= SOME ? 0xffff : (__mmask16)((1 << (left - v * SOME)) - 1);
            __m512 sum = _mm512_loadu_ps(sums);
            if (s->bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, s->bias + (first + v) * SOME));
            _mm512_mask_storeu_ps(out + v * SOME, there, sum);
        }
}

static void scatter(const Sparse *s, int64_t image) {
    const int vectors = (s->outputs + SOME - 1) / SOME;
    const int64_t row = (int64_t)s->width * s->channels, out_row = (int64_t)s->columns * s->outputs;
    const float *x = s->x + image * s->height * row;
    float memory[3 * (s->width + 3) * (vectors < 3 ? vectors : 3) * SOME];
    for (int first = 0, V; first < vectors; first += V) {
        V = together(vectors, first);
        const int size = (s->width + 3) * V * SOME;
        const float *w = s->weights + (int64_t)first * s->channels * 9 * SOME;
        float *sums[3] = {memory, memory + size, memory + 2 * size}; /* of the kernel's first, second, third row */
        for (int i = 0; i < 3 * size; i++) memory[i] = 0;
        for (int line = 0; line < s->height + 2; line++) {
            const int y = line + s->padding[0] - 2;
            if (line < s->height) (V == 1 ? spread_1 : V == 2 ? spread_2 : spread_3)(s, x + line * row, w, sums);
            if (y >= 0 && y < s->rows)
                finish(s, sums[2], first, V, s->out + (image * s->rows + y) * out_row + first * SOME);
            float *next = sums[2];
            sums[2] = sums[1], sums[1] = sums[0], sums[0] = next;
            for (int i = 0; i < size; i++) next[i] = 0;
        }
    }
}
