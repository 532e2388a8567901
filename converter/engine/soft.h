/* Integrate-and-fire with soft reset: v <- v + z;  where v >= threshold: v <- v - threshold, and the code is `said`.

   z is what was added up, or, where spikes in bytes alone charge a layer, bias + factor * sum in the same pass. */
typedef struct {
    const void *z; /* or NULL, and then */
    const int32_t *sums;
    const void *bias, *factor;
    const void *threshold;
    const uint8_t *said;
    int32_t zero;
} Soft;

#define CURRENT(V, z, i) (z ? ((const V *)z)[i] : ((const V *)s->bias)[i] + ((const V *)s->factor)[i] * (V)s->sums[i])
#define ONE_BY_ONE(V)                                                                                       \
    for (; i < n; i++) {                                                                                    \
        const V now = v[i] + CURRENT(V, s->z, i), at = ((const V *)s->threshold)[i];                        \
        v[i] = now >= at ? now - at : now;                                                                  \
        out[i] = now >= at ? s->said[i] : (uint8_t)s->zero;                                                 \
    }

#ifdef __AVX512VNNI__

/* 16 at a time: compilers pack what has several widths into bytes in many more instructions. */
static inline __m512i current_int32_t(const Soft *s, int i) {
    if (s->z) return _mm512_loadu_si512((const int32_t *)s->z + i);
    const __m512i factor = _mm512_loadu_si512((const int32_t *)s->factor + i);
    const __m512i times = _mm512_mullo_epi32(factor, _mm512_loadu_si512(s->sums + i));
    return _mm512_add_epi32(_mm512_loadu_si512((const int32_t *)s->bias + i), times);
}

static inline __m512d current_double(const Soft *s, int i) {
    if (s->z) return _mm512_loadu_pd((const double *)s->z + i);
    const __m512d sum = _mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)(s->sums + i)));
    const __m512d times = _mm512_mul_pd(_mm512_loadu_pd((const double *)s->factor + i), sum);
    return _mm512_add_pd(_mm512_loadu_pd((const double *)s->bias + i), times);
}

static void soft_int32_t(const Soft *s, int32_t *v, uint8_t *out, int n) {
    const __m128i none = _mm_set1_epi8((char)s->zero);
    const int32_t *threshold = s->threshold;
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i at = _mm512_loadu_si512(threshold + i);
        const __m512i now = _mm512_add_epi32(_mm512_loadu_si512(v + i), current_int32_t(s, i));
        const __mmask16 fires = _mm512_cmpge_epi32_mask(now, at);
        _mm512_storeu_si512(v + i, _mm512_mask_sub_epi32(now, fires, now, at));
        const __m128i codes = _mm_mask_blend_epi8(fires, none, _mm_loadu_si128((const __m128i *)(s->said + i)));
        _mm_storeu_si128((__m128i *)(out + i), codes);
    }
    ONE_BY_ONE(int32_t)
}

static void soft_double(const Soft *s, double *v, uint8_t *out, int n) {
    const __m128i none = _mm_set1_epi8((char)s->zero);
    const double *threshold = s->threshold;
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512d low = _mm512_loadu_pd(threshold + i), high = _mm512_loadu_pd(threshold + i + 8);
        const __m512d one = _mm512_add_pd(_mm512_loadu_pd(v + i), current_double(s, i));
        const __m512d two = _mm512_add_pd(_mm512_loadu_pd(v + i + 8), current_double(s, i + 8));
        const __mmask8 first = _mm512_cmp_pd_mask(one, low, _CMP_GE_OQ);
        const __mmask8 second = _mm512_cmp_pd_mask(two, high, _CMP_GE_OQ);
        _mm512_storeu_pd(v + i, _mm512_mask_sub_pd(one, first, one, low));
        _mm512_storeu_pd(v + i + 8, _mm512_mask_sub_pd(two, second, two, high));
        const __mmask16 fires = _mm512_kunpackb(second, first);
        const __m128i codes = _mm_mask_blend_epi8(fires, none, _mm_loadu_si128((const __m128i *)(s->said + i)));
        _mm_storeu_si128((__m128i *)(out + i), codes);
    }
    ONE_BY_ONE(double)
}

#else

static void soft_int32_t(const Soft *s, int32_t *restrict v, uint8_t *restrict out, int n) {
    int i = 0;
    ONE_BY_ONE(int32_t)
}

static void soft_double(const Soft *s, double *restrict v, uint8_t *restrict out, int n) {
    int i = 0;
    ONE_BY_ONE(double)
}

#endif
