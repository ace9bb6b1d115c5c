/* The loops over every single value: laying out blocks, their digests, rounding them; statistics are in _statistics.c.

Each does what its numpy twin does, in the same order and in float64, so that both give the same bits: no contraction
to fused multiply-adds (setup.py), partial sums over the same rows. The interpreter's lock is released meanwhile.
kernels.py tells what the arguments are. */

#include "_kernels.h"
#include <math.h>
#include <string.h>

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

INLINE void turn_square(const Layout *layout, Py_ssize_t at, Py_ssize_t from,
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

INLINE void turn_flags(const Layout *layout, Py_ssize_t at, Py_ssize_t from,
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

/* ---- sums over the rows of a block, for its digest ---- */

typedef struct {
    const char *values;
    Py_ssize_t stride, rows, tokens;
    const uint64_t *of_token;
    uint64_t *sums;
} Rows;

FOR_EACH_PROCESSOR
static void add_values(const Rows *all)
{
    for (Py_ssize_t r = 0; r < all->rows; r++) {
        const uint32_t *row = (const uint32_t *)(all->values + r * all->stride);
        uint64_t sum = 0;
        for (Py_ssize_t t = 0; t < all->tokens; t++)
            sum += row[t] * all->of_token[t];
        all->sums[r] += sum;
    }
}

FOR_EACH_PROCESSOR
static void add_flags(const Rows *all)
{
    for (Py_ssize_t r = 0; r < all->rows; r++) {
        const uint8_t *row = (const uint8_t *)(all->values + r * all->stride);
        uint64_t sum = 0;
        for (Py_ssize_t t = 0; t < all->tokens; t++)
            sum += all->of_token[t] & (row[t] ? UINT64_MAX : 0); /* no branch */
        all->sums[r] += sum;
    }
}

/* itemsize: 4 for values, whose bits count times the token's number; 1 for flags, which count it where they are set. */
static PyObject *summed(PyObject *const *given, Py_ssize_t size, Py_ssize_t itemsize)
{
    Array arrays[3] = {{.held = 0}};
    Array *values = &arrays[0], *of_token = &arrays[1], *sums = &arrays[2];
    PyObject *result = NULL;
    if (size != 3) {
        PyErr_SetString(PyExc_TypeError, "expected values, of_token, sums");
        return NULL;
    }
    if (!take(given[0], values, 2, itemsize, 0, "values") ||
        !take(given[1], of_token, 1, sizeof(uint64_t), 0, "of_token") ||
        !take(given[2], sums, 1, sizeof(uint64_t), 1, "sums"))
        goto done;
    const Py_ssize_t rows = values->view.shape[0], tokens = values->view.shape[1];
    if (!shaped(of_token, 1, tokens, "of_token") || !shaped(sums, 1, rows, "sums"))
        goto done;
    const Rows all = {values->view.buf, row_bytes(values), rows, tokens, of_token->view.buf, sums->view.buf};
    Py_BEGIN_ALLOW_THREADS
    if (itemsize == 4)
        add_values(&all);
    else
        add_flags(&all);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, 3);
    return result;
}

static PyObject *sum_rows(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    return summed(given, size, sizeof(float));
}

static PyObject *sum_flags(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    return summed(given, size, 1);
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
INLINE uint32_t row_of(const Reduction *all, Py_ssize_t row, uint32_t *bits)
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
INLINE void tell(const Reduction *all, Py_ssize_t row, const uint32_t *bits,
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
    {"prompts", (PyCFunction)(void (*)(void))prompts, METH_FASTCALL, NULL},
    {"parts", (PyCFunction)(void (*)(void))parts, METH_FASTCALL, NULL},
    {"lay_out", (PyCFunction)(void (*)(void))lay_out, METH_FASTCALL, NULL},
    {"lay_out_flags", (PyCFunction)(void (*)(void))lay_out_flags, METH_FASTCALL, NULL},
    {"sum_rows", (PyCFunction)(void (*)(void))sum_rows, METH_FASTCALL, NULL},
    {"sum_flags", (PyCFunction)(void (*)(void))sum_flags, METH_FASTCALL, NULL},
    {"reduce", (PyCFunction)(void (*)(void))reduce, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&module); }
