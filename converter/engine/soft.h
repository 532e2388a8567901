/* Integrate-and-fire with soft reset: v <- v + z;  where v >= threshold: v <- v - threshold, and the code is `said`. */
#define ONE_BY_ONE(V)                                                                                       \
    for (; i < n; i++) {                                                                                    \
        const V now = v[i] + z[i];                                                                          \
        const int fires = now >= threshold[i];                                                              \
        v[i] = fires ? now - threshold[i] : now;                                                            \
        out[i] = fires ? said[i] : (uint8_t)zero;                                                           \
    }

#ifdef __AVX512VNNI__

/* 16 at a time: compilers pack what has several widths into bytes in many more instructions. */
static void soft_int32_t(const int32_t *z, const int32_t *threshold, const uint8_t *said, int32_t zero, int32_t *v,
                         uint8_t *out, int n) {
    const __m128i none = _mm_set1_epi8((char)zero);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i at = _mm512_loadu_si512(threshold + i);
        const __m512i now = _mm512_add_epi32(_mm512_loadu_si512(v + i), _mm512_loadu_si512(z + i));
        const __mmask16 fires = _mm512_cmpge_epi32_mask(now, at);
        _mm512_storeu_si512(v + i, _mm512_mask_sub_epi32(now, fires, now, at));
        const __m128i codes = _mm_mask_blend_epi8(fires, none, _mm_loadu_si128((const __m128i *)(said + i)));
        _mm_storeu_si128((__m128i *)(out + i), codes);
    }
    ONE_BY_ONE(int32_t)
}

static void soft_double(const double *z, const double *threshold, const uint8_t *said, int32_t zero, double *v,
                        uint8_t *out, int n) {
    const __m128i none = _mm_set1_epi8((char)zero);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512d low = _mm512_loadu_pd(threshold + i), high = _mm512_loadu_pd(threshold + i + 8);
        const __m512d one = _mm512_add_pd(_mm512_loadu_pd(v + i), _mm512_loadu_pd(z + i));
        const __m512d two = _mm512_add_pd(_mm512_loadu_pd(v + i + 8), _mm512_loadu_pd(z + i + 8));
        const __mmask8 first = _mm512_cmp_pd_mask(one, low, _CMP_GE_OQ);
        const __mmask8 second = _mm512_cmp_pd_mask(two, high, _CMP_GE_OQ);
        _mm512_storeu_pd(v + i, _mm512_mask_sub_pd(one, first, one, low));
        _mm512_storeu_pd(v + i + 8, _mm512_mask_sub_pd(two, second, two, high));
        const __mmask16 fires = _mm512_kunpackb(second, first);
        const __m128i codes = _mm_mask_blend_epi8(fires, none, _mm_loadu_si128((const __m128i *)(said + i)));
        _mm_storeu_si128((__m128i *)(out + i), codes);
    }
    ONE_BY_ONE(double)
}

#else

#define SOFTLY(V)                                                                                           \
    static void soft_##V(const V *restrict z, const V *restrict threshold, const uint8_t *restrict said,    \
                         int32_t zero, V *restrict v, uint8_t *restrict out, int n) {                       \
        int i = 0;                                                                                          \
        ONE_BY_ONE(V)                                                                                       \
    }
SOFTLY(int32_t)
SOFTLY(double)

#endif
