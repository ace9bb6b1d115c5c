/* The loops over every single value: moments and histogram of a chunk, merging two parts, laying out blocks, rounding them.

Each does what its numpy twin does, in the same order and in float64, so that both give the same bits: no contraction
to fused multiply-adds (setup.py), partial sums over the same rows. The interpreter's lock is released meanwhile.
Arguments are checked here, as a wrong shape would read foreign memory; kernels.py tells what they are. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define TILE 64       /* neurons whose moments are worked on together: their sums stay in the first cache */
#define COUNTED 16    /* neurons counted together: likewise their histograms */

enum { MEAN, M2, M3, M4, SUM_ABS, SUMS };

/* ---- arrays ---- */

typedef struct {
    Py_buffer view;
    int held;
} Array;

/* Take a buffer of `ndim` axes whose items have this size, the last axis contiguous. Returns 0 where it is another. */
static int take(PyObject *object, Array *array, int ndim, Py_ssize_t itemsize, int writable, const char *name)
{
    if (PyObject_GetBuffer(object, &array->view, writable ? PyBUF_STRIDED : PyBUF_STRIDED_RO) < 0)
        return 0;
    array->held = 1;
    const Py_buffer *view = &array->view;
    Py_ssize_t last = ndim - 1;
    if (view->ndim != ndim || view->itemsize != itemsize ||
        (view->shape[last] > 1 && view->strides[last] != itemsize) ||
        (uintptr_t)view->buf % (uintptr_t)itemsize != 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected %d axes of %zd-byte items, the last one contiguous", name, ndim,
                     itemsize);
        return 0;
    }
    return 1;
}

static void let_go(Array *arrays, int count)
{
    for (int i = 0; i < count; i++)
        if (arrays[i].held)
            PyBuffer_Release(&arrays[i].view);
}

static int shaped(const Array *array, Py_ssize_t rows, Py_ssize_t columns, const char *name)
{
    const Py_ssize_t *shape = array->view.shape;
    int fits = array->view.ndim == 1 ? shape[0] == columns
                                     : shape[0] == rows && shape[1] == columns;
    if (!fits)
        PyErr_Format(PyExc_ValueError, "%s: its shape is not that of the others", name);
    return fits;
}

static Py_ssize_t row_bytes(const Array *array) { return array->view.strides[0]; }

/* ---- moments and histogram of one chunk ---- */

typedef struct {
    const char *values;
    Py_ssize_t stride, tokens, neurons;
    const char *fired; /* NULL: where a value is above zero */
    Py_ssize_t fired_stride;
    int rows; /* of a partial sum */
    double *sums;
    float *low, *high;
    int64_t *count;
} Chunk;

static inline __attribute__((always_inline)) void moments_of(const Chunk *chunk, Py_ssize_t at, const int width)
{
    double sum[TILE], sum_abs[TILE], mean[TILE], m2[TILE], m3[TILE], m4[TILE];
    float low[TILE], high[TILE];
    int32_t fired[TILE];
    const char *start = chunk->values + at * (Py_ssize_t)sizeof(float);
    memcpy(low, start, width * sizeof(float));
    memcpy(high, start, width * sizeof(float));
    for (int i = 0; i < width; i++) {
        sum[i] = sum_abs[i] = m2[i] = m3[i] = m4[i] = 0;
        fired[i] = 0;
    }
    for (Py_ssize_t t = 0; t < chunk->tokens; t++) {
        const float *row = (const float *)(start + t * chunk->stride);
        for (int i = 0; i < width; i++) {
            const float value = row[i];
            sum[i] += value;
            sum_abs[i] += fabsf(value);
            low[i] = (value < low[i]) | (value != value) ? value : low[i];
            high[i] = (value > high[i]) | (value != value) ? value : high[i];
            fired[i] += value > 0;
        }
    }
    if (chunk->fired != NULL) {
        for (int i = 0; i < width; i++)
            fired[i] = 0;
        for (Py_ssize_t t = 0; t < chunk->tokens; t++) {
            const uint8_t *row = (const uint8_t *)(chunk->fired + t * chunk->fired_stride + at);
            for (int i = 0; i < width; i++)
                fired[i] += row[i] != 0;
        }
    }
    for (int i = 0; i < width; i++)
        mean[i] = sum[i] / (double)chunk->tokens;
    for (Py_ssize_t begin = 0; begin < chunk->tokens; begin += chunk->rows) {
        const Py_ssize_t end = begin + chunk->rows < chunk->tokens ? begin + chunk->rows : chunk->tokens;
        double p2[TILE], p3[TILE], p4[TILE];
        for (int i = 0; i < width; i++)
            p2[i] = p3[i] = p4[i] = 0;
        for (Py_ssize_t t = begin; t < end; t++) {
            const float *row = (const float *)(start + t * chunk->stride);
            for (int i = 0; i < width; i++) {
                const double deviation = row[i] - mean[i], power = deviation * deviation;
                p2[i] += power;
                p3[i] += deviation * power;
                p4[i] += power * power;
            }
        }
        for (int i = 0; i < width; i++) {
            m2[i] += p2[i];
            m3[i] += p3[i];
            m4[i] += p4[i];
        }
    }
    double *out = chunk->sums + at;
    const Py_ssize_t next = chunk->neurons;
    for (int i = 0; i < width; i++) {
        const double varied = low[i] != high[i]; /* one that never varied has no variance, whatever rounding says */
        out[MEAN * next + i] = varied ? mean[i] : low[i];
        out[M2 * next + i] = m2[i] * varied;
        out[M3 * next + i] = m3[i] * varied;
        out[M4 * next + i] = m4[i] * varied;
        out[SUM_ABS * next + i] = sum_abs[i];
        chunk->low[at + i] = low[i];
        chunk->high[at + i] = high[i];
        chunk->count[at + i] = fired[i];
    }
}

FOR_EACH_PROCESSOR
static void moments(const Chunk *chunk, Py_ssize_t at, int width)
{
    if (width == TILE)
        moments_of(chunk, at, TILE);
    else
        moments_of(chunk, at, width);
}

static void count(const Chunk *chunk, Py_ssize_t at, int width, const int16_t *bin_of_key, int shift, int64_t *counts,
                  Py_ssize_t bins)
{
    const char *start = chunk->values + at * (Py_ssize_t)sizeof(float);
    for (Py_ssize_t t = 0; t < chunk->tokens; t++) {
        const uint32_t *row = (const uint32_t *)(start + t * chunk->stride);
        for (int i = 0; i < width; i++)
            counts[i * bins + bin_of_key[row[i] >> shift]]++;
    }
}

static PyObject *chunk_of(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    Array arrays[8] = {{.held = 0}};
    Array *values = &arrays[0], *fired = &arrays[1], *sums = &arrays[2], *low = &arrays[3], *high = &arrays[4],
          *fires = &arrays[5], *counts = &arrays[6], *keys = &arrays[7];
    PyObject *result = NULL;
    if (size != 9) {
        PyErr_SetString(PyExc_TypeError, "chunk: expected values, fired, sums, low, high, count, counts, keys, rows");
        return NULL;
    }
    const long rows = PyLong_AsLong(given[8]);
    if (rows < 1 || rows > INT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "rows: expected 1 to 2147483647");
        return NULL;
    }
    const int tells = given[1] != Py_None, counted = given[6] != Py_None;
    if (!take(given[0], values, 2, sizeof(float), 0, "values") || (tells && !take(given[1], fired, 2, 1, 0, "fired")) ||
        !take(given[2], sums, 2, sizeof(double), 1, "sums") || !take(given[3], low, 1, sizeof(float), 1, "low") ||
        !take(given[4], high, 1, sizeof(float), 1, "high") || !take(given[5], fires, 1, sizeof(int64_t), 1, "count") ||
        (counted && !take(given[6], counts, 2, sizeof(int64_t), 1, "counts")) ||
        !take(given[7], keys, 1, sizeof(int16_t), 0, "keys"))
        goto done;
    const Py_ssize_t tokens = values->view.shape[0], neurons = values->view.shape[1];
    const Py_ssize_t bins = counted ? counts->view.shape[1] : 0, key_count = keys->view.shape[0];
    int shift = 32;
    for (Py_ssize_t left = key_count; left > 1; left >>= 1)
        shift--;
    if (tokens < 1 || tokens > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "values: expected 1 to 2147483647 tokens");
        goto done;
    }
    if (!shaped(values, tokens, neurons, "values") || (tells && !shaped(fired, tokens, neurons, "fired")) ||
        !shaped(sums, SUMS, neurons, "sums") || !shaped(low, 1, neurons, "low") || !shaped(high, 1, neurons, "high") ||
        !shaped(fires, 1, neurons, "count") || (counted && !shaped(counts, neurons, bins, "counts")))
        goto done;
    if ((neurons > 1 && row_bytes(sums) != neurons * (Py_ssize_t)sizeof(double)) ||
        (counted && row_bytes(counts) != bins * (Py_ssize_t)sizeof(int64_t)) || shift < 1 || shift > 31 ||
        key_count != (Py_ssize_t)1 << (32 - shift)) {
        PyErr_SetString(PyExc_ValueError, "expected sums and counts without gaps, and a power of two of keys");
        goto done;
    }
    const int16_t *bin_of_key = keys->view.buf;
    for (Py_ssize_t i = 0; counted && i < key_count; i++)
        if (bin_of_key[i] < 0 || bin_of_key[i] >= bins) {
            PyErr_SetString(PyExc_ValueError, "keys: expected bins of counts");
            goto done;
        }
    const Chunk chunk = {values->view.buf, row_bytes(values), tokens, neurons, tells ? fired->view.buf : NULL,
                         tells ? row_bytes(fired) : 0, (int)rows, sums->view.buf, low->view.buf, high->view.buf,
                         fires->view.buf};
    int64_t *counters = counted ? counts->view.buf : NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < neurons; at += TILE) {
        const Py_ssize_t end = at + TILE < neurons ? at + TILE : neurons;
        moments(&chunk, at, (int)(end - at));
        for (Py_ssize_t i = at; counted && i < end; i += COUNTED)
            count(&chunk, i, (int)(end - i < COUNTED ? end - i : COUNTED), bin_of_key, shift, counters + i * bins, bins);
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, 8);
    return result;
}

/* ---- two parts of the data as one ---- */

typedef struct {
    const int64_t *n, *other_n;
    const double *part[4], *other[4]; /* mean, m2, m3, m4 */
    double *out;
    Py_ssize_t neurons;
} Merge;

FOR_EACH_PROCESSOR
static void merge_parts(const Merge *merge)
{
    for (Py_ssize_t i = 0; i < merge->neurons; i++) {
        const int64_t n = merge->n[i] + merge->other_n[i];
        const double a = (double)merge->n[i], b = (double)merge->other_n[i], total = n < 1 ? 1.0 : (double)n;
        const double mean = merge->part[0][i], m2 = merge->part[1][i], m3 = merge->part[2][i], m4 = merge->part[3][i];
        const double mean_b = merge->other[0][i], m2_b = merge->other[1][i], m3_b = merge->other[2][i];
        const double m4_b = merge->other[3][i];
        const double delta = mean_b - mean, by_n = delta / total, ab = a * b, square = by_n * by_n;
        double *out = merge->out + i;
        const Py_ssize_t next = merge->neurons;
        out[0] = b == 0 ? mean : a == 0 ? mean_b : mean + by_n * b;
        out[next] = m2 + m2_b + delta * by_n * ab;
        out[2 * next] = m3 + m3_b + delta * square * ab * (a - b) + 3.0 * by_n * (a * m2_b - b * m2);
        out[3 * next] = m4 + m4_b + delta * (square * by_n) * ab * (a * a - ab + b * b) +
                        6.0 * square * (a * a * m2_b + b * b * m2) + 4.0 * by_n * (a * m3_b - b * m3);
    }
}

static PyObject *merge(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    Array arrays[11] = {{.held = 0}};
    static const char *const names[] = {"n", "other n", "mean", "m2", "m3", "m4", "other mean", "other m2", "other m3",
                                        "other m4", "out"};
    PyObject *result = NULL;
    if (size != 11) {
        PyErr_SetString(PyExc_TypeError, "merge: expected n and other n, four moments of each, out");
        return NULL;
    }
    for (int i = 0; i < 11; i++)
        if (!take(given[i], &arrays[i], i == 10 ? 2 : 1, 8, i == 10, names[i]))
            goto done;
    const Py_ssize_t neurons = arrays[0].view.shape[0];
    for (int i = 0; i < 11; i++)
        if (!shaped(&arrays[i], 4, neurons, names[i]))
            goto done;
    if (neurons > 1 && row_bytes(&arrays[10]) != neurons * (Py_ssize_t)sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "expected out without gaps");
        goto done;
    }
    Merge parts = {.n = arrays[0].view.buf, .other_n = arrays[1].view.buf, .out = arrays[10].view.buf,
                   .neurons = neurons};
    for (int i = 0; i < 4; i++) {
        parts.part[i] = arrays[2 + i].view.buf;
        parts.other[i] = arrays[6 + i].view.buf;
    }
    Py_BEGIN_ALLOW_THREADS
    merge_parts(&parts);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, 11);
    return result;
}

/* ---- one layer's values into its unfinished block ---- */

typedef struct {
    const char *values;
    Py_ssize_t stride, tokens, neurons;
    char *out;
    Py_ssize_t out_stride;
    const uint64_t *of_token;
    uint64_t *sums;
} Layout;

static inline uint32_t big_endian(uint32_t value)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return value;
#else
    return __builtin_bswap32(value);
#endif
}

#define SIDE 16 /* of the squares that are turned in the first cache */

static inline __attribute__((always_inline)) void turn_square(const Layout *layout, Py_ssize_t at, Py_ssize_t from,
                                                              const int width, const int height)
{
    uint32_t square[SIDE][SIDE];
    uint64_t sums[SIDE] = {0};
    for (int t = 0; t < height; t++) {
        const uint32_t *row = (const uint32_t *)(layout->values + (from + t) * layout->stride) + at;
        const uint64_t factor = layout->of_token[from + t];
        for (int i = 0; i < width; i++) {
            square[t][i] = big_endian(row[i]);
            sums[i] += row[i] * factor;
        }
    }
    for (int i = 0; i < width; i++) {
        uint32_t *row = (uint32_t *)(layout->out + (at + i) * layout->out_stride) + from;
        for (int t = 0; t < height; t++)
            row[t] = square[t][i];
        layout->sums[at + i] += sums[i];
    }
}

static inline __attribute__((always_inline)) void turn_flags(const Layout *layout, Py_ssize_t at, Py_ssize_t from,
                                                             const int width, const int height)
{
    uint8_t square[SIDE][SIDE];
    uint64_t sums[SIDE] = {0};
    for (int t = 0; t < height; t++) {
        const uint8_t *row = (const uint8_t *)(layout->values + (from + t) * layout->stride) + at;
        const uint64_t term = layout->of_token[from + t];
        for (int i = 0; i < width; i++) {
            square[t][i] = row[i];
            sums[i] += row[i] ? term : 0;
        }
    }
    for (int i = 0; i < width; i++) {
        uint8_t *row = (uint8_t *)(layout->out + (at + i) * layout->out_stride) + from;
        for (int t = 0; t < height; t++)
            row[t] = square[t][i];
        layout->sums[at + i] += sums[i];
    }
}

#define IN_SQUARES(name, turn_one)                                                                              \
    FOR_EACH_PROCESSOR                                                                                          \
    static void name(const Layout *layout)                                                                      \
    {                                                                                                           \
        for (Py_ssize_t at = 0; at < layout->neurons; at += SIDE) {                                             \
            const int width = (int)(layout->neurons - at < SIDE ? layout->neurons - at : SIDE);                 \
            for (Py_ssize_t from = 0; from < layout->tokens; from += SIDE) {                                    \
                const int height = (int)(layout->tokens - from < SIDE ? layout->tokens - from : SIDE);          \
                if (width == SIDE && height == SIDE)                                                            \
                    turn_one(layout, at, from, SIDE, SIDE);                                                     \
                else                                                                                            \
                    turn_one(layout, at, from, width, height);                                                  \
            }                                                                                                   \
        }                                                                                                       \
    }

IN_SQUARES(turn_values, turn_square)
IN_SQUARES(turn_all_flags, turn_flags)

/* itemsize: 4 for values, which become big-endian and count as their bits times the token's number; 1 for flags. */
static PyObject *laid_out(PyObject *const *given, Py_ssize_t size, Py_ssize_t itemsize)
{
    Array arrays[4] = {{.held = 0}};
    Array *values = &arrays[0], *out = &arrays[1], *of_token = &arrays[2], *sums = &arrays[3];
    PyObject *result = NULL;
    if (size != 4) {
        PyErr_SetString(PyExc_TypeError, "expected values, out, of_token, sums");
        return NULL;
    }
    if (!take(given[0], values, 2, itemsize, 0, "values") || !take(given[1], out, 2, itemsize, 1, "out") ||
        !take(given[2], of_token, 1, sizeof(uint64_t), 0, "of_token") ||
        !take(given[3], sums, 1, sizeof(uint64_t), 1, "sums"))
        goto done;
    const Py_ssize_t tokens = values->view.shape[0], neurons = values->view.shape[1];
    if (!shaped(values, tokens, neurons, "values") || !shaped(out, neurons, tokens, "out") ||
        !shaped(of_token, 1, tokens, "of_token") || !shaped(sums, 1, neurons, "sums"))
        goto done;
    const Layout layout = {values->view.buf, row_bytes(values), tokens, neurons, out->view.buf,
                           row_bytes(out), of_token->view.buf, sums->view.buf};
    Py_BEGIN_ALLOW_THREADS
    if (itemsize == 4)
        turn_values(&layout);
    else
        turn_all_flags(&layout);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, 4);
    return result;
}

static PyObject *lay_out(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    return laid_out(given, size, sizeof(float));
}

static PyObject *lay_out_flags(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    return laid_out(given, size, 1);
}

/* ---- rows of values in fewer bytes ---- */

#define MOST 256 /* tokens in a row */

typedef struct {
    const char *values; /* big-endian float32 */
    Py_ssize_t stride, rows, tokens;
    char *out; /* [rows, width * tokens] */
    Py_ssize_t out_stride;
    float *scale, *error;
    uint8_t *held;
    const uint64_t *of_token;
    uint64_t *sums;
} Reduction;

static inline float number(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

#define MAGNITUDE 0x7FFFFFFFu
#define INFINITE 0x7F800000u

/* The bits of a row's values, native; returns those of the largest magnitude (of NaN, if there is one). */
static inline __attribute__((always_inline)) uint32_t row_of(const Reduction *all, Py_ssize_t row, uint32_t *bits)
{
    const uint32_t *stored = (const uint32_t *)(all->values + row * all->stride);
    uint32_t largest = 0;
    for (Py_ssize_t t = 0; t < all->tokens; t++) {
        bits[t] = big_endian(stored[t]);
        const uint32_t magnitude = bits[t] & MAGNITUDE;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

/* What is read back of a row: its sum for the digest, and how far it is off. */
static inline __attribute__((always_inline)) void tell(const Reduction *all, Py_ssize_t row, const uint32_t *bits,
                                                       const float *back, int held)
{
    uint64_t sum = 0;
    uint32_t error = 0;
    for (Py_ssize_t t = 0; t < all->tokens; t++) {
        const uint32_t off = bits_of(fabsf(back[t] - number(bits[t])));
        error = off > error ? off : error;
        sum += (held ? bits_of(back[t]) : bits[t]) * all->of_token[t];
    }
    all->held[row] = (uint8_t)held;
    all->error[row] = held ? number(error) : 0;
    all->sums[row] = sum;
}

#define ROUND 12582912.0f /* 1.5 * 2^23: adding it leaves no room for a fraction */

FOR_EACH_PROCESSOR
static void to_int8(const Reduction *all)
{
    uint32_t bits[MOST];
    float back[MOST];
    for (Py_ssize_t row = 0; row < all->rows; row++) {
        const uint32_t largest = row_of(all, row, bits);
        const float scale = number(largest) / 127.0f, divisor = scale > 0 ? scale : 1;
        const int held = largest < INFINITE && (scale > 0 || largest == 0);
        int8_t *out = (int8_t *)(all->out + row * all->out_stride);
        for (Py_ssize_t t = 0; t < all->tokens; t++) {
            const float value = number(bits[t]);
            float whole = (value / divisor + ROUND) - ROUND;
            const float sign = (float)((value > 0) - (value < 0));
            whole = whole == 0 ? sign : whole;
            whole = whole > 127 ? 127 : whole < -127 ? -127 : whole;
            const int8_t kept = (int8_t)(held ? (int32_t)whole : 0);
            out[t] = kept;
            back[t] = (float)kept * scale;
        }
        all->scale[row] = scale;
        tell(all, row, bits, back, held);
    }
}

#define HALF_INFINITE 0x477FF000u /* 65,520: rounded to infinity */
#define HALF_NORMAL 0x38800000u   /* 2^-14 */
#define HALF_LOWEST 0.5f          /* added to a smaller magnitude, its last bit is one of 2^-24 */

FOR_EACH_PROCESSOR
static void to_float16(const Reduction *all)
{
    uint32_t bits[MOST];
    float back[MOST];
    for (Py_ssize_t row = 0; row < all->rows; row++) {
        const int held = row_of(all, row, bits) < HALF_INFINITE;
        uint8_t *out = (uint8_t *)(all->out + row * all->out_stride);
        for (Py_ssize_t t = 0; t < all->tokens; t++) {
            const uint32_t magnitude = bits[t] & MAGNITUDE;
            const uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
            const uint32_t subnormal = bits_of(number(magnitude) + HALF_LOWEST) - bits_of(HALF_LOWEST);
            uint32_t half = magnitude < HALF_NORMAL ? subnormal : normal;
            half = half == 0 && magnitude != 0 ? 1 : half;
            const uint32_t signed_half = half | ((bits[t] >> 16) & 0x8000u);
            out[2 * t] = (uint8_t)(signed_half >> 8);
            out[2 * t + 1] = (uint8_t)signed_half;
            back[t] = number(((half & 0x7FFFu) << 13) | (bits[t] & ~MAGNITUDE)) * 0x1p112f;
        }
        tell(all, row, bits, back, held);
    }
}

static PyObject *reduce(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    Array arrays[7] = {{.held = 0}};
    Array *values = &arrays[0], *of_token = &arrays[1], *out = &arrays[2], *scale = &arrays[3], *error = &arrays[4],
          *held = &arrays[5], *sums = &arrays[6];
    PyObject *result = NULL;
    if (size != 7) {
        PyErr_SetString(PyExc_TypeError, "expected values, of_token, out, scale, error, held, sums");
        return NULL;
    }
    if (!take(given[0], values, 2, sizeof(float), 0, "values") ||
        !take(given[1], of_token, 1, sizeof(uint64_t), 0, "of_token") || !take(given[2], out, 2, 1, 1, "out") ||
        !take(given[3], scale, 1, sizeof(float), 1, "scale") || !take(given[4], error, 1, sizeof(float), 1, "error") ||
        !take(given[5], held, 1, 1, 1, "held") || !take(given[6], sums, 1, sizeof(uint64_t), 1, "sums"))
        goto done;
    const Py_ssize_t rows = values->view.shape[0], tokens = values->view.shape[1];
    const int wide = out->view.shape[1] == 2 * tokens && tokens > 0;
    if (tokens > MOST) {
        PyErr_Format(PyExc_ValueError, "values: expected at most %d tokens in a row", MOST);
        goto done;
    }
    if (!shaped(of_token, 1, tokens, "of_token") || !shaped(out, rows, wide ? 2 * tokens : tokens, "out") ||
        !shaped(scale, 1, rows, "scale") || !shaped(error, 1, rows, "error") || !shaped(held, 1, rows, "held") ||
        !shaped(sums, 1, rows, "sums"))
        goto done;
    const Reduction all = {values->view.buf, row_bytes(values), rows, tokens, out->view.buf, row_bytes(out),
                           scale->view.buf, error->view.buf, held->view.buf, of_token->view.buf, sums->view.buf};
    Py_BEGIN_ALLOW_THREADS
    if (wide)
        to_float16(&all);
    else
        to_int8(&all);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, 7);
    return result;
}

static PyMethodDef methods[] = {
    {"chunk", (PyCFunction)(void (*)(void))chunk_of, METH_FASTCALL, NULL},
    {"merge", (PyCFunction)(void (*)(void))merge, METH_FASTCALL, NULL},
    {"lay_out", (PyCFunction)(void (*)(void))lay_out, METH_FASTCALL, NULL},
    {"lay_out_flags", (PyCFunction)(void (*)(void))lay_out_flags, METH_FASTCALL, NULL},
    {"reduce", (PyCFunction)(void (*)(void))reduce, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&module); }
