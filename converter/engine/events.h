/* The same sums spike by spike: a list of what fires in sight of a place, and the weights of each added up.
   It costs by the spikes, where tiles cost by the bytes. */

/* How many of the bytes are spikes. */
int64_t count_spikes(const uint8_t *x, int64_t n, int32_t zero) {
    const __m512i none = _mm512_set1_epi8((char)zero);
    int64_t spikes = 0;
    for (int64_t i = 0; i < n; i += 64) {
        const __mmask64 there = n - i >= 64 ? ~0ull : (1ull << (n - i)) - 1;
        const __m512i now = _mm512_maskz_loadu_epi8(there, x + i);
        spikes += __builtin_popcountll(_mm512_mask_cmpneq_epi8_mask(there, now, none));
    }
    return spikes;
}

#define FOUR(DO) DO(0) DO(1) DO(2) DO(3)
#define NOTHING(v) __m512i sum##v = _mm512_setzero_si512();
#define TIMES(v)                                                                                            \
    if (v < V) {                                                                                            \
        const __m512i row = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(w + v * VECTOR)));   \
        sum##v = _mm512_add_epi32(sum##v, _mm512_mullo_epi32(row, times));                                  \
    }
#define WRITE(v)                                                                                            \
    if (v < V) {                                                                                            \
        const int left = b->outputs - (vector + v) * VECTOR;                                                \
        int32_t *to = out + (vector + v) * VECTOR;                                                          \
        if (left >= VECTOR)                                                                                 \
            _mm512_storeu_si512(to, sum##v);                                                                \
        else                                                                                                \
            _mm512_mask_storeu_epi32(to, (__mmask16)((1 << left) - 1), sum##v);                             \
    }

static inline __attribute__((always_inline)) void add_events(const Bytes *b, const int32_t *which, const int16_t *size,
                                                             int spikes, int vector, int32_t *out, const int V) {
    const int64_t row = (int64_t)(b->outputs + VECTOR - 1) / VECTOR * VECTOR;
    FOUR(NOTHING)
    for (int e = 0; e < spikes; e++) {
        const int16_t *w = b->events + which[e] * row + vector * VECTOR;
        const __m512i times = _mm512_set1_epi32(size[e]);
        FOUR(TIMES)
    }
    FOUR(WRITE)
}

#define LIST(h)                                                                                             \
    _mm512_storeu_si512(which + spikes + 16 * h,                                                            \
                        _mm512_add_epi32(from, _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(at, h))));

static void sum_events(const Bytes *b, const uint8_t *x, int n, int32_t *out) {
    const int vectors = (b->outputs + VECTOR - 1) / VECTOR;
    const __m512i none = _mm512_set1_epi8((char)b->zero);
    int32_t which[b->count * b->run + 64];
    int16_t size[b->count * b->run + 64];
    uint8_t count[64];
    for (int i = 0; i < 64; i++) count[i] = (uint8_t)i;
    const __m512i places = _mm512_loadu_si512(count);
    const __m512i zero = _mm512_set1_epi16((int16_t)b->zero);
    for (int p = 0; p < n; p++, x += b->pixel, out += b->outputs) {
        int spikes = 0;
        for (int r = 0; r < b->count; r++)
            for (int i = 0; i < b->run; i += 64) { /* no branch tells how many fire: that could not be foreseen */
                const __mmask64 there = b->run - i >= 64 ? ~0ull : (1ull << (b->run - i)) - 1;
                const __m512i now = _mm512_maskz_loadu_epi8(there, x + b->runs[r] + i);
                const __mmask64 fired = _mm512_mask_cmpneq_epi8_mask(there, now, none);
                const __m512i at = _mm512_maskz_compress_epi8(fired, places), k = _mm512_maskz_compress_epi8(fired, now);
                const __m512i from = _mm512_set1_epi32(r * b->run + i);
                const int found = __builtin_popcountll(fired);
                _mm512_storeu_si512(size + spikes, _mm512_sub_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(k)), zero));
                LIST(0)
                LIST(1)
                if (found > 32) {
                    const __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(k, 1));
                    _mm512_storeu_si512(size + spikes + 32, _mm512_sub_epi16(high, zero));
                    LIST(2)
                    LIST(3)
                }
                spikes += found;
            }
        for (int v = 0; v < vectors; v += 4) switch (vectors - v) {
            case 1: add_events(b, which, size, spikes, v, out, 1); break;
            case 2: add_events(b, which, size, spikes, v, out, 2); break;
            case 3: add_events(b, which, size, spikes, v, out, 3); break;
            default: add_events(b, which, size, spikes, v, out, 4);
            }
    }
}
