/* A max-pool before the neurons: their current is the change of the largest of the sums so far. */

typedef struct {
    int64_t samples, channels;
    int32_t height, width, rows, columns; /* of what comes in, of what goes out */
    int32_t kernel[2], stride[2], padding[2], dilation[2];
    void *sums;    /* [samples, height, width, channels] */
    void *largest; /* [samples, rows, columns, channels] */
} Pool;

/* pool: the change of the largest sum of each window of row `y`, for `n` values from `out` on.
   sample: all steps of a sample, its sums first, then row by row its windows and their neurons. */
#define WINDOWS(V, WORD)                                                                                    \
    typedef V V##_few __attribute__((vector_size(64), aligned(sizeof(V)), may_alias));                      \
    typedef WORD V##_mask __attribute__((vector_size(64), may_alias));                                      \
                                                                                                            \
    static void pool_##V(V *restrict z, const Pool *p, int64_t sample, int y, int64_t out, int n) {         \
        const int c = (int)p->channels;                                                                     \
        V *restrict largest = (V *)p->largest + (sample * p->rows + y) * p->columns * c + out;              \
        const V *sums = (const V *)p->sums + sample * p->height * p->width * c;                             \
        const V *from[p->kernel[0] * p->kernel[1]];                                                         \
        for (int i = 0, x = (int)(out / c); i < n; i += c, x++) {                                           \
            int taps = 0;                                                                                   \
            for (int a = 0; a < p->kernel[0]; a++) {                                                        \
                const int row = y * p->stride[0] - p->padding[0] + a * p->dilation[0];                      \
                if (row < 0 || row >= p->height) continue;                                                  \
                for (int b = 0; b < p->kernel[1]; b++) {                                                    \
                    const int column = x * p->stride[1] - p->padding[1] + b * p->dilation[1];               \
                    if (column < 0 || column >= p->width) continue;                                         \
                    from[taps++] = sums + ((int64_t)row * p->width + column) * c;                           \
                }                                                                                           \
            }                                                                                               \
            const int few = 64 / sizeof(V);                                                                 \
            int k = 0;                                                                                      \
            for (; k + few <= c; k += few) {                                                                \
                V##_few most = *(const V##_few *)(from[0] + k);                                             \
                for (int t = 1; t < taps; t++) {                                                            \
                    const V##_few now = *(const V##_few *)(from[t] + k);                                    \
                    const V##_mask more = (V##_mask)(now > most);                                           \
                    most = (V##_few)(((V##_mask)now & more) | ((V##_mask)most & ~more));                    \
                }                                                                                           \
                *(V##_few *)(z + i + k) = most - *(const V##_few *)(largest + i + k);                       \
                *(V##_few *)(largest + i + k) = most;                                                       \
            }                                                                                               \
            for (; k < c; k++) {                                                                            \
                V most = from[0][k];                                                                        \
                for (int t = 1; t < taps; t++) most = from[t][k] > most ? from[t][k] : most;                \
                z[i + k] = most - largest[i + k];                                                           \
                largest[i + k] = most;                                                                      \
            }                                                                                               \
        }                                                                                                   \
    }

#define SAMPLES(V)                                                                                          \
    static void sample_##V(const Layer *a, const Pool *p, int64_t sample) {                                 \
        V z[ROOM];                                                                                          \
        const int64_t in = p->width * p->channels, out = p->columns * p->channels;                          \
        for (int64_t step = 0; step < a->steps; step++) {                                                   \
            for (int64_t row = sample * p->height; row < (sample + 1) * p->height; row++)                   \
                for (int64_t from = 0; from < in; from += a->block) {                                       \
                    const int n = least(in - from, a->block);                                               \
                    V *restrict sums = (V *)p->sums + row * in + from;                                      \
                    int32_t now[a->weighed * a->together * n + 1];                                          \
                    weigh(a, row * in + from, step, 1, n, now);                                             \
                    charge_##V(z, now, a, row * in + from, step, n);                                        \
                    for (int i = 0; i < n; i++) sums[i] += z[i];                                            \
                }                                                                                           \
            for (int y = 0; y < p->rows; y++)                                                               \
                for (int64_t from = 0; from < out; from += a->block) {                                      \
                    const int n = least(out - from, a->block);                                              \
                    pool_##V(z, p, sample, y, from, n);                                                     \
                    fire_##V(z, a, step, (sample * p->rows + y) * out + from, n, p->samples * p->rows * out);\
                }                                                                                           \
        }                                                                                                   \
    }

WINDOWS(int32_t, int32_t)
WINDOWS(double, int64_t)
WINDOWS(float, int32_t)
SAMPLES(int32_t)
SAMPLES(double)

void pool_and_fire(const Layer *a, const Pool *p, int wide, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t sample = 0; sample < p->samples; sample++)
        if (wide)
            sample_double(a, p, sample);
        else
            sample_int32_t(a, p, sample);
}

/* The same through time in float32 and without neurons, as torch's own operators round: x [steps, samples, …]. */
void pool_floats(const Pool *p, int64_t steps, const float *x, float *out, int threads) {
    const int64_t in = (int64_t)p->height * p->width * p->channels, row = p->columns * p->channels;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t sample = 0; sample < p->samples; sample++)
        for (int64_t step = 0; step < steps; step++) {
            float *restrict sums = (float *)p->sums + sample * in;
            const float *now = x + (step * p->samples + sample) * in;
            for (int64_t i = 0; i < in; i++) sums[i] += now[i];
            for (int y = 0; y < p->rows; y++)
                pool_float(out + ((step * p->samples + sample) * p->rows + y) * row, p, sample, y, 0, (int)row);
        }
}
