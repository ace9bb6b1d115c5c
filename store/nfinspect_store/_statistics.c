/* Moments, extremes and histogram of one chunk, merging two parts, and all that is recorded of a batch of prompts.

As in _kernels.c, each gives the bits of its twin in numpy. */

#include "_kernels.h"
#include <math.h>
#include <string.h>

#define TILE 64    /* neurons whose moments are worked on together: their sums stay in the first cache */
#define LINE 64    /* bytes of a cache line */
#define COUNTED 16 /* neurons counted together: likewise their histograms */

enum { MEAN, M2, M3, M4, SUM_ABS, SUMS };

/* ---- moments and histogram ---- */

typedef struct {
    const char *start;
    Py_ssize_t stride, tokens, neurons;
    const char *fired; /* NULL: where a value is above zero */
    Py_ssize_t fired_stride;
    int rows; /* of a partial sum */
} Values;

/* The statistics of some consecutive tokens, for the neurons of a tile. */
typedef struct {
    double mean[TILE], m2[TILE], m3[TILE], m4[TILE], sum_abs[TILE];
    float low[TILE], high[TILE];
    int32_t fired[TILE];
} Part;

INLINE const float *row_of(const Values *values, Py_ssize_t token, Py_ssize_t at)
{
    return (const float *)(values->start + token * values->stride) + at;
}

INLINE float lower(float a, float b) { return (b < a) | (b != b) ? b : a; }
INLINE float higher(float a, float b) { return (b > a) | (b != b) ? b : a; }

INLINE void fires_of(const Values *values, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at, const int width, Part *part)
{
    for (int i = 0; i < width; i++)
        part->fired[i] = 0;
    for (Py_ssize_t t = from; t < to; t++) {
        const uint8_t *row = (const uint8_t *)(values->fired + t * values->fired_stride + at);
        for (int i = 0; i < width; i++)
            part->fired[i] += row[i] != 0;
    }
}

INLINE void moments_of(const Values *values, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at, const int width, Part *part)
{
    double sum[TILE], mean[TILE];
    const float *first = row_of(values, from, at);
    for (int i = 0; i < width; i++) {
        part->low[i] = part->high[i] = first[i];
        sum[i] = part->sum_abs[i] = part->m2[i] = part->m3[i] = part->m4[i] = 0;
        part->fired[i] = 0;
    }
    for (Py_ssize_t t = from; t < to; t++) {
        const float *row = row_of(values, t, at);
        for (int i = 0; i < width; i++) {
            const float value = row[i];
            sum[i] += value;
            part->sum_abs[i] += fabsf(value);
            part->low[i] = lower(part->low[i], value);
            part->high[i] = higher(part->high[i], value);
            part->fired[i] += value > 0;
        }
    }
    if (values->fired != NULL)
        fires_of(values, from, to, at, width, part);
    for (int i = 0; i < width; i++)
        mean[i] = sum[i] / (double)(to - from);
    for (Py_ssize_t begin = from; begin < to; begin += values->rows) {
        const Py_ssize_t end = begin + values->rows < to ? begin + values->rows : to;
        double p2[TILE], p3[TILE], p4[TILE];
        for (int i = 0; i < width; i++)
            p2[i] = p3[i] = p4[i] = 0;
        for (Py_ssize_t t = begin; t < end; t++) {
            const float *row = row_of(values, t, at);
            for (int i = 0; i < width; i++) {
                const double deviation = row[i] - mean[i], power = deviation * deviation;
                p2[i] += power;
                p3[i] += deviation * power;
                p4[i] += power * power;
            }
        }
        for (int i = 0; i < width; i++) {
            part->m2[i] += p2[i];
            part->m3[i] += p3[i];
            part->m4[i] += p4[i];
        }
    }
    for (int i = 0; i < width; i++) {
        /* one that never varied has no variance, whatever rounding says */
        const double varied = part->low[i] != part->high[i];
        part->mean[i] = varied ? mean[i] : part->low[i];
        part->m2[i] *= varied;
        part->m3[i] *= varied;
        part->m4[i] *= varied;
    }
}

/* The same of one token. */
INLINE void moments_of_one(const Values *values, Py_ssize_t token, Py_ssize_t at, const int width, Part *part)
{
    const float *row = row_of(values, token, at);
    for (int i = 0; i < width; i++) {
        part->mean[i] = part->low[i] = part->high[i] = row[i];
        part->m2[i] = part->m3[i] = part->m4[i] = row[i] - row[i]; /* NaN where it is not finite */
        part->sum_abs[i] = fabsf(row[i]);
        part->fired[i] = row[i] > 0;
    }
    if (values->fired == NULL)
        return;
    const uint8_t *fired = (const uint8_t *)(values->fired + token * values->fired_stride + at);
    for (int i = 0; i < width; i++)
        part->fired[i] = fired[i] != 0;
}

/* The next tile of these tokens, on its way while this one is worked on: rows are too far apart to be foreseen. */
INLINE void fetch_next(const Values *values, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at)
{
    const Py_ssize_t next = at + TILE < values->neurons ? at + TILE : 0;
    for (Py_ssize_t t = from; t < to; t++) {
        const char *row = (const char *)row_of(values, t, next);
        for (int line = 0; line < TILE * (int)sizeof(float) / LINE; line++)
            __builtin_prefetch(row + line * LINE);
        if (values->fired != NULL)
            __builtin_prefetch(values->fired + t * values->fired_stride + next);
    }
}

typedef struct {
    const int16_t *bin_of_key;
    int shift;
    Py_ssize_t bins;
} Bins;

/* Not inlined: among other variables its loop has too few registers, and takes twice as long. */
static __attribute__((noinline)) void count(const Values *values, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at,
                                            int width, const Bins *bins, int64_t *counts)
{
    const Bins known = *bins; /* of its own: otherwise each count could have changed it */
    for (Py_ssize_t t = from; t < to; t++) {
        const uint32_t *row = (const uint32_t *)row_of(values, t, at);
        for (int i = 0; i < width; i++)
            counts[i * known.bins + known.bin_of_key[row[i] >> known.shift]]++;
    }
}

/* Take values and fired. Returns 0 where they are not what is expected. */
static int take_values(PyObject *given, PyObject *flags, PyObject *rows, Array *array, Array *fired, Values *values)
{
    const int tells = flags != Py_None;
    const long partial = PyLong_AsLong(rows);
    if (partial < 1 || partial > INT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "rows: expected 1 to 2147483647");
        return 0;
    }
    if (!take(given, array, 2, sizeof(float), 0, "values") || (tells && !take(flags, fired, 2, 1, 0, "fired")))
        return 0;
    const Py_ssize_t tokens = array->view.shape[0], neurons = array->view.shape[1];
    if (tokens < 1 || tokens > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "values: expected 1 to 2147483647 tokens");
        return 0;
    }
    if (tells && !shaped(fired, tokens, neurons, "fired"))
        return 0;
    *values = (Values){array->view.buf, row_bytes(array), tokens, neurons, tells ? fired->view.buf : NULL,
                       tells ? row_bytes(fired) : 0, (int)partial};
    return 1;
}

/* Take histograms, int64[rows, bins], and the bin of each key. Returns 0 where they are not what is expected. */
static int take_counts(PyObject *given, PyObject *of_keys, Py_ssize_t rows, Array *counts, Array *keys, Bins *bins)
{
    if (!take(given, counts, 2, sizeof(int64_t), 1, "counts") || !take(of_keys, keys, 1, sizeof(int16_t), 0, "keys"))
        return 0;
    const Py_ssize_t width = counts->view.shape[1], key_count = keys->view.shape[0];
    int shift = 32;
    for (Py_ssize_t left = key_count; left > 1; left >>= 1)
        shift--;
    if (!shaped(counts, rows, width, "counts") || !gapless(counts, "counts"))
        return 0;
    if (shift < 1 || shift > 31 || key_count != (Py_ssize_t)1 << (32 - shift)) {
        PyErr_SetString(PyExc_ValueError, "keys: expected a power of two of them");
        return 0;
    }
    const int16_t *bin_of_key = keys->view.buf;
    for (Py_ssize_t i = 0; i < key_count; i++)
        if (bin_of_key[i] < 0 || bin_of_key[i] >= width) {
            PyErr_SetString(PyExc_ValueError, "keys: expected bins of counts");
            return 0;
        }
    *bins = (Bins){bin_of_key, shift, width};
    return 1;
}

/* ---- one chunk ---- */

typedef struct {
    double *sums;
    float *low, *high;
    int64_t *count;
} Chunk;

INLINE void chunk_tile(const Values *values, const Chunk *chunk, Py_ssize_t at, const int width)
{
    Part part;
    moments_of(values, 0, values->tokens, at, width, &part);
    const double *const found[SUMS] = {part.mean, part.m2, part.m3, part.m4, part.sum_abs};
    for (int sum = 0; sum < SUMS; sum++)
        memcpy(chunk->sums + sum * values->neurons + at, found[sum], width * sizeof(double));
    memcpy(chunk->low + at, part.low, width * sizeof(float));
    memcpy(chunk->high + at, part.high, width * sizeof(float));
    for (int i = 0; i < width; i++)
        chunk->count[at + i] = part.fired[i];
}

FOR_EACH_PROCESSOR
static void moments(const Values *values, const Chunk *chunk, Py_ssize_t at, int width)
{
    if (width == TILE)
        chunk_tile(values, chunk, at, TILE);
    else
        chunk_tile(values, chunk, at, width);
}

PyObject *chunk_of(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    Array arrays[8] = {{.held = 0}};
    Array *sums = &arrays[2], *low = &arrays[3], *high = &arrays[4], *fires = &arrays[5], *counts = &arrays[6];
    PyObject *result = NULL;
    Values values;
    Bins bins = {NULL, 0, 0};
    if (size != 9) {
        PyErr_SetString(PyExc_TypeError, "chunk: expected values, fired, sums, low, high, count, counts, keys, rows");
        return NULL;
    }
    const int counted = given[6] != Py_None;
    if (!take_values(given[0], given[1], given[8], &arrays[0], &arrays[1], &values) ||
        !take(given[2], sums, 2, sizeof(double), 1, "sums") || !take(given[3], low, 1, sizeof(float), 1, "low") ||
        !take(given[4], high, 1, sizeof(float), 1, "high") || !take(given[5], fires, 1, sizeof(int64_t), 1, "count") ||
        (counted && !take_counts(given[6], given[7], values.neurons, counts, &arrays[7], &bins)) ||
        !shaped(sums, SUMS, values.neurons, "sums") || !gapless(sums, "sums") ||
        !shaped(low, 1, values.neurons, "low") || !shaped(high, 1, values.neurons, "high") ||
        !shaped(fires, 1, values.neurons, "count"))
        goto done;
    const Chunk chunk = {sums->view.buf, low->view.buf, high->view.buf, fires->view.buf};
    int64_t *counters = counted ? counts->view.buf : NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < values.neurons; at += TILE) {
        const Py_ssize_t end = at + TILE < values.neurons ? at + TILE : values.neurons;
        moments(&values, &chunk, at, (int)(end - at));
        for (Py_ssize_t i = at; counted && i < end; i += COUNTED)
            count(&values, 0, values.tokens, i, (int)(end - i < COUNTED ? end - i : COUNTED), &bins,
                  counters + i * bins.bins);
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, 8);
    return result;
}

/* ---- two parts of the data as one ---- */

typedef struct {
    double mean, m2, m3, m4;
} Moments;

/* a, b: of how many tokens each is. */
INLINE Moments together(double a, Moments one, double b, Moments other)
{
    const double n = a + b, total = n < 1 ? 1.0 : n;
    const double delta = other.mean - one.mean, by_n = delta / total, ab = a * b, square = by_n * by_n;
    return (Moments){
        b == 0 ? one.mean : a == 0 ? other.mean : one.mean + by_n * b,
        one.m2 + other.m2 + delta * by_n * ab,
        one.m3 + other.m3 + delta * square * ab * (a - b) + 3.0 * by_n * (a * other.m2 - b * one.m2),
        one.m4 + other.m4 + delta * (square * by_n) * ab * (a * a - ab + b * b) +
            6.0 * square * (a * a * other.m2 + b * b * one.m2) + 4.0 * by_n * (a * other.m3 - b * one.m3),
    };
}

typedef struct {
    const int64_t *n, *other_n;
    const double *part[4], *other[4]; /* mean, m2, m3, m4 */
    double *out;
    Py_ssize_t neurons;
} Merge;

FOR_EACH_PROCESSOR
static void merge_parts(const Merge *merge)
{
    const Py_ssize_t next = merge->neurons;
    for (Py_ssize_t i = 0; i < merge->neurons; i++) {
        const Moments one = {merge->part[0][i], merge->part[1][i], merge->part[2][i], merge->part[3][i]};
        const Moments other = {merge->other[0][i], merge->other[1][i], merge->other[2][i], merge->other[3][i]};
        const Moments both = together((double)merge->n[i], one, (double)merge->other_n[i], other);
        double *out = merge->out + i;
        out[0] = both.mean;
        out[next] = both.m2;
        out[2 * next] = both.m3;
        out[3 * next] = both.m4;
    }
}

PyObject *merge(PyObject *self, PyObject *const *given, Py_ssize_t size)
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
    if (!gapless(&arrays[10], "out"))
        goto done;
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

/* ---- a batch of prompts ---- */

/* The columns of a prompt: its first row, the first past position 0, the row after its last, the first that is
   generated (past position 0), the row of its first mean, its concept, and the token of its first row. */
enum { START, REST, STOP, GENERATED, MEANS, CONCEPT, TOKEN, COLUMNS };

#define TOGETHER 128 /* tokens whose prompts are worked on before the next tile: they stay in the second cache */

/* What is recorded, and grows. Tokens past position 0 and those at it are kept apart, in this order. */
typedef struct {
    const int64_t *prompts; /* [count, COLUMNS] */
    Py_ssize_t count;
    double *moments;  /* [2 * SUMS, neurons] */
    float *extremes;  /* [2 * (low, high), neurons] */
    int64_t *tallies; /* [2 * (n, fired), neurons]; fired < 0: unknown, and stays so */
    int64_t *counts[2]; /* [neurons, bins] */
    float *means;     /* [means, neurons], of each prompt: of all, of the last, of those generated */
    int64_t *concept_tallies; /* [concepts * (n, fired), neurons]; NULL: nothing is kept by concept */
    double *concept_means;    /* [concepts, neurons] */
    float *concept_maxima;
    int64_t *examples; /* [2 * neurons, kept]: tokens, of the largest values and of the smallest; NULL: none are kept */
    float *scores;     /* values, those of the smallest with the other sign: falling */
    Py_ssize_t kept;
} Batch;

typedef struct {
    double n[TILE], mean[TILE], m2[TILE], m3[TILE], m4[TILE], sum_abs[TILE];
    float low[TILE], high[TILE];
    int64_t fired[TILE];
} Running;

INLINE void load(const Batch *batch, Py_ssize_t neurons, int first, Py_ssize_t at, const int width, Running *running)
{
    const double *moments = batch->moments + first * SUMS * neurons + at;
    const float *extremes = batch->extremes + first * 2 * neurons + at;
    const int64_t *tallies = batch->tallies + first * 2 * neurons + at;
    double *const into[SUMS] = {running->mean, running->m2, running->m3, running->m4, running->sum_abs};
    for (int sum = 0; sum < SUMS; sum++)
        memcpy(into[sum], moments + sum * neurons, width * sizeof(double));
    memcpy(running->low, extremes, width * sizeof(float));
    memcpy(running->high, extremes + neurons, width * sizeof(float));
    for (int i = 0; i < width; i++) {
        running->n[i] = (double)tallies[i];
        running->fired[i] = 0;
    }
}

INLINE void store(const Batch *batch, Py_ssize_t neurons, int first, Py_ssize_t at, const int width, int64_t tokens,
                  const Running *running)
{
    double *moments = batch->moments + first * SUMS * neurons + at;
    float *extremes = batch->extremes + first * 2 * neurons + at;
    int64_t *tallies = batch->tallies + first * 2 * neurons + at;
    const double *const from[SUMS] = {running->mean, running->m2, running->m3, running->m4, running->sum_abs};
    for (int sum = 0; sum < SUMS; sum++)
        memcpy(moments + sum * neurons, from[sum], width * sizeof(double));
    memcpy(extremes, running->low, width * sizeof(float));
    memcpy(extremes + neurons, running->high, width * sizeof(float));
    for (int i = 0; i < width; i++) {
        tallies[i] += tokens;
        tallies[neurons + i] += tallies[neurons + i] < 0 ? 0 : running->fired[i];
    }
}

INLINE void add_part(Running *running, const Part *part, double tokens, const int width)
{
    for (int i = 0; i < width; i++) {
        const Moments one = {running->mean[i], running->m2[i], running->m3[i], running->m4[i]};
        const Moments other = {part->mean[i], part->m2[i], part->m3[i], part->m4[i]};
        const Moments both = together(running->n[i], one, tokens, other);
        running->n[i] += tokens;
        running->mean[i] = both.mean;
        running->m2[i] = both.m2;
        running->m3[i] = both.m3;
        running->m4[i] = both.m4;
        running->sum_abs[i] += part->sum_abs[i];
    }
    for (int i = 0; i < width; i++) {
        running->low[i] = lower(running->low[i], part->low[i]);
        running->high[i] = higher(running->high[i], part->high[i]);
        running->fired[i] += part->fired[i];
    }
}

INLINE void add_to_concept(const Batch *batch, Py_ssize_t neurons, int64_t concept, Py_ssize_t at, const Part *part,
                           int64_t tokens, const int width)
{
    int64_t *n = batch->concept_tallies + concept * 2 * neurons + at, *fired = n + neurons;
    double *mean = batch->concept_means + concept * neurons + at;
    float *maximum = batch->concept_maxima + concept * neurons + at;
    for (int i = 0; i < width; i++) {
        n[i] += tokens;
        mean[i] += (part->mean[i] - mean[i]) * ((double)tokens / (double)n[i]);
        fired[i] += fired[i] < 0 ? 0 : part->fired[i];
        maximum[i] = higher(maximum[i], part->high[i]);
    }
}

INLINE void write_means(const Values *values, const Batch *batch, const int64_t *prompt, Py_ssize_t at,
                        const Part *part, const int width)
{
    float *row = batch->means + prompt[MEANS] * values->neurons + at;
    for (int i = 0; i < width; i++)
        row[i] = (float)part->mean[i];
    const float *last = row_of(values, prompt[STOP] - 1, at);
    for (int i = 0; i < width; i++)
        row[values->neurons + i] = last[i];
    if (prompt[GENERATED] == prompt[STOP])
        return;
    double sum[TILE] = {0};
    for (Py_ssize_t t = prompt[GENERATED]; t < prompt[STOP]; t++)
        for (int i = 0; i < width; i++)
            sum[i] += row_of(values, t, at)[i];
    row += 2 * values->neurons;
    for (int i = 0; i < width; i++)
        row[i] = (float)(sum[i] / (double)(prompt[STOP] - prompt[GENERATED]));
}

/* Put one into a list whose last score is lower; of equal scores the earlier one stays in front. */
static void enter(int64_t *examples, float *scores, Py_ssize_t place, float score, int64_t token)
{
    for (; place > 0 && scores[place - 1] < score; place--) {
        scores[place] = scores[place - 1];
        examples[place] = examples[place - 1];
    }
    scores[place] = score;
    examples[place] = token;
}

/* Enter a prompt's largest or smallest values (sign 1 or -1), in rows `where`, into the lists of those neurons that they
   beat the last score of: floor. token: of row 0. */
INLINE void enter_those(const Batch *batch, Py_ssize_t neurons, int64_t token, Py_ssize_t at, const float *extreme,
                        const int32_t *where, float sign, float *floor, const int width)
{
    const Py_ssize_t last = batch->kept - 1, lists = sign > 0 ? 0 : neurons;
    for (int i = 0; i < width; i++)
        if (extreme[i] * sign > floor[i]) {
            float *scores = batch->scores + (lists + at + i) * batch->kept;
            enter(batch->examples + (lists + at + i) * batch->kept, scores, last, extreme[i] * sign, token + where[i]);
            floor[i] = scores[last];
        }
}

/* Offer a prompt's largest or smallest values, wherever they are. */
INLINE void offer(const Values *values, const Batch *batch, const int64_t *prompt, Py_ssize_t at, const float *extreme,
                  float sign, float *floor, const int width)
{
    int entering = 0;
    for (int i = 0; i < width; i++)
        entering |= extreme[i] * sign > floor[i];
    if (!entering)
        return;
    int32_t where[TILE];
    for (int i = 0; i < width; i++)
        where[i] = 0;
    for (Py_ssize_t t = prompt[STOP] - prompt[START] - 1; t > 0; t--) {
        const float *row = row_of(values, prompt[START] + t, at);
        for (int i = 0; i < width; i++)
            where[i] = row[i] == extreme[i] ? (int32_t)t : where[i];
    }
    const float *row = row_of(values, prompt[START], at);
    for (int i = 0; i < width; i++)
        where[i] = row[i] == extreme[i] ? 0 : where[i];
    enter_those(batch, values->neurons, prompt[TOKEN], at, extreme, where, sign, floor, width);
}

INLINE void floors(const Batch *batch, Py_ssize_t neurons, Py_ssize_t at, const int width, float *top, float *bottom)
{
    const Py_ssize_t last = batch->kept - 1;
    for (int i = 0; i < width; i++) {
        top[i] = batch->scores[(at + i) * batch->kept + last];
        bottom[i] = batch->scores[(neurons + at + i) * batch->kept + last];
    }
}

/* All that is recorded of the prompts from <= p < to, for the neurons of a tile; but not their histograms. */
INLINE void record_tile(const Values *values, const Batch *batch, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at,
                        const int width)
{
    Running running[2];
    Part part;
    float top[TILE], bottom[TILE], high[TILE], low[TILE];
    int64_t tokens[2] = {0, 0};
    for (int first = 0; first < 2; first++)
        load(batch, values->neurons, first, at, width, &running[first]);
    if (batch->examples != NULL)
        floors(batch, values->neurons, at, width, top, bottom);
    for (Py_ssize_t p = from; p < to; p++) {
        const int64_t *prompt = batch->prompts + p * COLUMNS;
        fetch_next(values, prompt[START], prompt[STOP], at);
        for (int first = 1; first >= 0; first--) {
            const int64_t begin = first ? prompt[START] : prompt[REST], end = first ? prompt[REST] : prompt[STOP];
            if (begin == end)
                continue;
            if (end - begin == 1)
                moments_of_one(values, begin, at, width, &part);
            else
                moments_of(values, begin, end, at, width, &part);
            add_part(&running[first], &part, (double)(end - begin), width);
            tokens[first] += end - begin;
            if (batch->concept_tallies != NULL)
                add_to_concept(batch, values->neurons, prompt[CONCEPT], at, &part, end - begin, width);
            if (!first)
                write_means(values, batch, prompt, at, &part, width);
            if (batch->examples != NULL)
                for (int i = 0; i < width; i++) {
                    high[i] = begin == prompt[START] ? part.high[i] : higher(high[i], part.high[i]);
                    low[i] = begin == prompt[START] ? part.low[i] : lower(low[i], part.low[i]);
                }
        }
        if (batch->examples != NULL) {
            offer(values, batch, prompt, at, high, 1, top, width);
            offer(values, batch, prompt, at, low, -1, bottom, width);
        }
    }
    for (int first = 0; first < 2; first++)
        store(batch, values->neurons, first, at, width, tokens[first], &running[first]);
}

FOR_EACH_PROCESSOR
static void record(const Values *values, const Batch *batch, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at, int width)
{
    if (width == TILE)
        record_tile(values, batch, from, to, at, TILE);
    else
        record_tile(values, batch, from, to, at, width);
}

static void count_prompts(const Values *values, const Batch *batch, Py_ssize_t from, Py_ssize_t to, Py_ssize_t at,
                          int width, const Bins *bins)
{
    for (int first = 0; first < 2; first++)
        for (Py_ssize_t p = from; p < to; p++) {
            const int64_t *prompt = batch->prompts + p * COLUMNS;
            count(values, first ? prompt[START] : prompt[REST], first ? prompt[REST] : prompt[STOP], at, width, bins,
                  batch->counts[first] + at * bins->bins);
        }
}

static void record_prompts(const Values *values, const Batch *batch, const Bins *bins)
{
    for (Py_ssize_t from = 0, to; from < batch->count; from = to) {
        const int64_t *prompt = batch->prompts + from * COLUMNS;
        const int64_t start = prompt[START];
        for (to = from + 1; to < batch->count; to++)
            if (batch->prompts[to * COLUMNS + STOP] - start > TOGETHER)
                break;
        for (Py_ssize_t at = 0; at < values->neurons; at += TILE) {
            const Py_ssize_t end = at + TILE < values->neurons ? at + TILE : values->neurons;
            record(values, batch, from, to, at, (int)(end - at));
            for (Py_ssize_t i = at; i < end; i += COUNTED)
                count_prompts(values, batch, from, to, i, (int)(end - i < COUNTED ? end - i : COUNTED), bins);
        }
    }
}

/* Whether the prompts' rows, means and concepts are there. */
static int prompts_fit(const Values *values, const Batch *batch, Py_ssize_t means, Py_ssize_t concepts)
{
    for (Py_ssize_t p = 0; p < batch->count; p++) {
        const int64_t *prompt = batch->prompts + p * COLUMNS;
        const int64_t start = prompt[START], rest = prompt[REST], stop = prompt[STOP], generated = prompt[GENERATED];
        const int64_t written = rest == stop ? 0 : generated == stop ? 2 : 3;
        if (start < 0 || rest < start || rest - start > 1 || stop < rest || stop <= start || stop > values->tokens ||
            generated < rest || generated > stop || prompt[MEANS] < 0 || prompt[MEANS] > means - written ||
            (batch->concept_tallies != NULL && (prompt[CONCEPT] < 0 || prompt[CONCEPT] >= concepts))) {
            PyErr_Format(PyExc_ValueError, "prompts: row %zd does not fit values, means or concepts", p);
            return 0;
        }
    }
    return 1;
}

enum { MOMENTS, EXTREMES, TALLIES, RUNNING };
enum { BY_CONCEPT, OF_CONCEPT, MAXIMA, EXAMPLES, SCORES, KEPT };

/* Take what grows into a Batch. Returns 0 where arrays are not what is expected. concepts: for how many there is room. */
static int take_recorded(PyObject *const *running, PyObject *const *kept, Py_ssize_t neurons, Array *of_running,
                         Array *of_kept, Batch *batch, Py_ssize_t *concepts)
{
    const int by_concept = kept[BY_CONCEPT] != Py_None, lists = kept[EXAMPLES] != Py_None;
    Array *moments = &of_running[MOMENTS], *extremes = &of_running[EXTREMES], *tallies = &of_running[TALLIES],
          *told = &of_kept[BY_CONCEPT], *means = &of_kept[OF_CONCEPT], *maxima = &of_kept[MAXIMA],
          *examples = &of_kept[EXAMPLES], *scores = &of_kept[SCORES];
    if (!take(running[MOMENTS], moments, 2, sizeof(double), 1, "moments") ||
        !take(running[EXTREMES], extremes, 2, sizeof(float), 1, "extremes") ||
        !take(running[TALLIES], tallies, 2, sizeof(int64_t), 1, "tallies") ||
        (by_concept && (!take(kept[BY_CONCEPT], told, 2, sizeof(int64_t), 1, "tallies of concepts") ||
                        !take(kept[OF_CONCEPT], means, 2, sizeof(double), 1, "means of concepts") ||
                        !take(kept[MAXIMA], maxima, 2, sizeof(float), 1, "maxima of concepts"))) ||
        (lists && (!take(kept[EXAMPLES], examples, 2, sizeof(int64_t), 1, "examples") ||
                   !take(kept[SCORES], scores, 2, sizeof(float), 1, "scores"))))
        return 0;
    const Py_ssize_t known = by_concept ? means->view.shape[0] : 0, width = lists ? scores->view.shape[1] : 1;
    if (!shaped(moments, 2 * SUMS, neurons, "moments") || !gapless(moments, "moments") ||
        !shaped(extremes, 4, neurons, "extremes") || !gapless(extremes, "extremes") ||
        !shaped(tallies, 4, neurons, "tallies") || !gapless(tallies, "tallies") ||
        (by_concept && (!shaped(told, 2 * known, neurons, "tallies of concepts") ||
                        !gapless(told, "tallies of concepts") || !shaped(means, known, neurons, "means of concepts") ||
                        !gapless(means, "means of concepts") || !shaped(maxima, known, neurons, "maxima of concepts") ||
                        !gapless(maxima, "maxima of concepts"))) ||
        (lists && (!shaped(examples, 2 * neurons, width, "examples") || !gapless(examples, "examples") ||
                   !shaped(scores, 2 * neurons, width, "scores") || !gapless(scores, "scores"))))
        return 0;
    if (width < 1) {
        PyErr_SetString(PyExc_ValueError, "scores: expected one or more of each neuron");
        return 0;
    }
    batch->moments = moments->view.buf;
    batch->extremes = extremes->view.buf;
    batch->tallies = tallies->view.buf;
    batch->concept_tallies = by_concept ? told->view.buf : NULL;
    batch->concept_means = by_concept ? means->view.buf : NULL;
    batch->concept_maxima = by_concept ? maxima->view.buf : NULL;
    batch->examples = lists ? examples->view.buf : NULL;
    batch->scores = lists ? scores->view.buf : NULL;
    batch->kept = width;
    *concepts = known;
    return 1;
}

PyObject *prompts(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    enum { VALUES, FIRED, PROMPTS, GROWS, COUNTS = GROWS + RUNNING, AT_START, KEYS, OUT, ALSO, ROWS = ALSO + KEPT,
           ARGUMENTS };
    Array arrays[ARGUMENTS] = {{.held = 0}};
    Array *told = &arrays[PROMPTS], *counts = &arrays[COUNTS], *at_start = &arrays[AT_START], *out = &arrays[OUT];
    PyObject *result = NULL;
    Values values;
    Bins bins;
    Batch batch;
    Py_ssize_t concepts;
    if (size != ARGUMENTS) {
        PyErr_Format(PyExc_TypeError, "prompts: expected %d arguments", ARGUMENTS);
        return NULL;
    }
    if (!take_values(given[VALUES], given[FIRED], given[ROWS], &arrays[VALUES], &arrays[FIRED], &values) ||
        !take_counts(given[COUNTS], given[KEYS], values.neurons, counts, &arrays[KEYS], &bins) ||
        !take(given[AT_START], at_start, 2, sizeof(int64_t), 1, "counts at position 0") ||
        !shaped(at_start, values.neurons, bins.bins, "counts at position 0") ||
        !gapless(at_start, "counts at position 0") || !take(given[PROMPTS], told, 2, sizeof(int64_t), 0, "prompts") ||
        !take(given[OUT], out, 2, sizeof(float), 1, "means") ||
        !take_recorded(&given[GROWS], &given[ALSO], values.neurons, &arrays[GROWS], &arrays[ALSO], &batch, &concepts))
        goto done;
    batch.count = told->view.shape[0];
    if (!shaped(told, batch.count, COLUMNS, "prompts") || !gapless(told, "prompts") ||
        !shaped(out, out->view.shape[0], values.neurons, "means") || !gapless(out, "means"))
        goto done;
    batch.prompts = told->view.buf;
    batch.counts[0] = counts->view.buf;
    batch.counts[1] = at_start->view.buf;
    batch.means = out->view.buf;
    if (!prompts_fit(&values, &batch, out->view.shape[0], concepts))
        goto done;
    Py_BEGIN_ALLOW_THREADS
    record_prompts(&values, &batch, &bins);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, ARGUMENTS);
    return result;
}

/* ---- a batch of prompts whose statistics are known ---- */

/* Of each prompt with rows past position 0, in order: what is known of these; and the rows at position 0. */
typedef struct {
    Values first;
    const double *moments; /* [rests * SUMS, neurons] */
    const float *extremes; /* [rests * (low, high), neurons] */
    const int32_t *at;     /* the same: in which of the rows they are first; NULL: no examples are kept */
    const int32_t *fired;  /* [rests, neurons]; NULL: unknown */
    Py_ssize_t rests;
} Parts;

INLINE void take_part(const Parts *parts, Py_ssize_t neurons, Py_ssize_t rest, Py_ssize_t at, const int width,
                      Part *part)
{
    const double *moments = parts->moments + rest * SUMS * neurons + at;
    const float *extremes = parts->extremes + rest * 2 * neurons + at;
    double *const into[SUMS] = {part->mean, part->m2, part->m3, part->m4, part->sum_abs};
    for (int sum = 0; sum < SUMS; sum++)
        memcpy(into[sum], moments + sum * neurons, width * sizeof(double));
    memcpy(part->low, extremes, width * sizeof(float));
    memcpy(part->high, extremes + neurons, width * sizeof(float));
    if (parts->fired != NULL)
        memcpy(part->fired, parts->fired + rest * neurons + at, width * sizeof(int32_t));
    else
        memset(part->fired, 0, width * sizeof(int32_t));
}

/* The next prompt's, on their way while this one's are merged: they are too far apart to be foreseen. */
INLINE void fetch_part(const Parts *parts, Py_ssize_t neurons, Py_ssize_t rest, Py_ssize_t at)
{
    const char *moments = (const char *)(parts->moments + rest * SUMS * neurons + at);
    for (int sum = 0; sum < SUMS; sum++)
        for (int line = 0; line < TILE * (int)sizeof(double) / LINE; line++)
            __builtin_prefetch(moments + sum * neurons * (Py_ssize_t)sizeof(double) + line * LINE);
    for (int half = 0; half < 2; half++)
        for (int line = 0; line < TILE * (int)sizeof(float) / LINE; line++) {
            const Py_ssize_t there = ((rest * 2 + half) * neurons + at) * (Py_ssize_t)sizeof(float) + line * LINE;
            __builtin_prefetch((const char *)parts->extremes + there);
            if (parts->at != NULL)
                __builtin_prefetch((const char *)parts->at + there);
        }
    if (parts->fired != NULL)
        for (int line = 0; line < TILE * (int)sizeof(int32_t) / LINE; line++)
            __builtin_prefetch((const char *)(parts->fired + rest * neurons + at) + line * LINE);
}

/* An extreme of a prompt, and in which of its rows it is first. */
typedef struct {
    float value[TILE];
    int32_t row[TILE];
} Extreme;

INLINE void merge_tile(const Parts *parts, const Batch *batch, Py_ssize_t neurons, Py_ssize_t at, const int width)
{
    Running running[2];
    Part part;
    Extreme high, low;
    float top[TILE], bottom[TILE];
    int64_t tokens[2] = {0, 0};
    Py_ssize_t firsts = 0, rests = 0;
    for (int first = 0; first < 2; first++)
        load(batch, neurons, first, at, width, &running[first]);
    if (batch->examples != NULL)
        floors(batch, neurons, at, width, top, bottom);
    for (Py_ssize_t p = 0; p < batch->count; p++) {
        const int64_t *prompt = batch->prompts + p * COLUMNS;
        for (int first = 1; first >= 0; first--) {
            const int64_t size = first ? prompt[REST] - prompt[START] : prompt[STOP] - prompt[REST];
            const int32_t before = first ? 0 : (int32_t)(prompt[REST] - prompt[START]);
            if (size == 0)
                continue;
            if (first)
                moments_of_one(&parts->first, firsts++, at, width, &part);
            else {
                if (rests + 1 < parts->rests)
                    fetch_part(parts, neurons, rests + 1, at);
                take_part(parts, neurons, rests, at, width, &part);
            }
            add_part(&running[first], &part, (double)size, width);
            tokens[first] += size;
            if (batch->concept_tallies != NULL)
                add_to_concept(batch, neurons, prompt[CONCEPT], at, &part, size, width);
            if (batch->examples != NULL) {
                const int32_t *at_low = first ? NULL : parts->at + rests * 2 * neurons + at;
                for (int i = 0; i < width; i++) {
                    const int below = !before || part.low[i] < low.value[i];
                    const int above = !before || part.high[i] > high.value[i];
                    low.value[i] = below ? part.low[i] : low.value[i];
                    low.row[i] = first ? 0 : below ? at_low[i] + before : low.row[i];
                    high.value[i] = above ? part.high[i] : high.value[i];
                    high.row[i] = first ? 0 : above ? at_low[neurons + i] + before : high.row[i];
                }
            }
            rests += !first;
        }
        if (batch->examples != NULL) {
            enter_those(batch, neurons, prompt[TOKEN], at, high.value, high.row, 1, top, width);
            enter_those(batch, neurons, prompt[TOKEN], at, low.value, low.row, -1, bottom, width);
        }
    }
    for (int first = 0; first < 2; first++)
        store(batch, neurons, first, at, width, tokens[first], &running[first]);
}

FOR_EACH_PROCESSOR
static void merge_all(const Parts *parts, const Batch *batch, Py_ssize_t neurons)
{
    for (Py_ssize_t at = 0; at < neurons; at += TILE) {
        if (neurons - at >= TILE)
            merge_tile(parts, batch, neurons, at, TILE);
        else
            merge_tile(parts, batch, neurons, at, (int)(neurons - at));
    }
}

/* Whether there are so many of either as the prompts say, and the concepts are there. */
static int parts_fit(const Batch *batch, Py_ssize_t firsts, Py_ssize_t rests, Py_ssize_t concepts)
{
    for (Py_ssize_t p = 0; p < batch->count; p++) {
        const int64_t *prompt = batch->prompts + p * COLUMNS;
        const int64_t start = prompt[START], rest = prompt[REST], stop = prompt[STOP];
        if (start < 0 || rest < start || rest - start > 1 || stop < rest || stop <= start || stop > INT32_MAX ||
            (batch->concept_tallies != NULL && (prompt[CONCEPT] < 0 || prompt[CONCEPT] >= concepts))) {
            PyErr_Format(PyExc_ValueError, "prompts: row %zd does not fit values or concepts", p);
            return 0;
        }
        firsts -= rest > start;
        rests -= stop > rest;
    }
    if (firsts != 0 || rests != 0)
        PyErr_SetString(PyExc_ValueError, "parts: not as many as the prompts have");
    return firsts == 0 && rests == 0;
}

PyObject *parts(PyObject *self, PyObject *const *given, Py_ssize_t size)
{
    (void)self;
    enum { FIRST, FIRST_FIRED, KNOWN, EXTREME, WHERE, FIRED, PROMPTS, GROWS, ALSO = GROWS + RUNNING,
           ARGUMENTS = ALSO + KEPT };
    Array arrays[ARGUMENTS] = {{.held = 0}};
    Array *first = &arrays[FIRST], *gates = &arrays[FIRST_FIRED], *known = &arrays[KNOWN], *extreme = &arrays[EXTREME],
          *where = &arrays[WHERE], *fired = &arrays[FIRED], *told = &arrays[PROMPTS];
    PyObject *result = NULL;
    Batch batch = {.count = 0};
    Py_ssize_t concepts;
    if (size != ARGUMENTS) {
        PyErr_Format(PyExc_TypeError, "parts: expected %d arguments", ARGUMENTS);
        return NULL;
    }
    const int tells = given[FIRED] != Py_None, gated = given[FIRST_FIRED] != Py_None, finds = given[WHERE] != Py_None;
    if (!take(given[FIRST], first, 2, sizeof(float), 0, "first") ||
        (gated && !take(given[FIRST_FIRED], gates, 2, 1, 0, "first fired")) ||
        !take(given[KNOWN], known, 2, sizeof(double), 0, "moments of parts") ||
        !take(given[EXTREME], extreme, 2, sizeof(float), 0, "extremes of parts") ||
        (finds && !take(given[WHERE], where, 2, sizeof(int32_t), 0, "places of parts")) ||
        (tells && !take(given[FIRED], fired, 2, sizeof(int32_t), 0, "fired")) ||
        !take(given[PROMPTS], told, 2, sizeof(int64_t), 0, "prompts"))
        goto done;
    const Py_ssize_t firsts = first->view.shape[0], neurons = first->view.shape[1], rests = extreme->view.shape[0] / 2;
    if (!gapless(first, "first") || (gated && (!shaped(gates, firsts, neurons, "first fired") || !gapless(gates, "first fired"))) ||
        !shaped(known, rests * SUMS, neurons, "moments of parts") || !gapless(known, "moments of parts") ||
        !shaped(extreme, rests * 2, neurons, "extremes of parts") || !gapless(extreme, "extremes of parts") ||
        (finds && (!shaped(where, rests * 2, neurons, "places of parts") || !gapless(where, "places of parts"))) ||
        (tells && (!shaped(fired, rests, neurons, "fired") || !gapless(fired, "fired"))) ||
        !shaped(told, told->view.shape[0], COLUMNS, "prompts") || !gapless(told, "prompts") ||
        !take_recorded(&given[GROWS], &given[ALSO], neurons, &arrays[GROWS], &arrays[ALSO], &batch, &concepts))
        goto done;
    if (batch.examples != NULL && !finds) {
        PyErr_SetString(PyExc_ValueError, "places of parts: expected them, as examples are kept");
        goto done;
    }
    batch.prompts = told->view.buf;
    batch.count = told->view.shape[0];
    const Parts all = {
        {first->view.buf, row_bytes(first), firsts, neurons, gated ? gates->view.buf : NULL,
         gated ? row_bytes(gates) : 0, 1},
        known->view.buf, extreme->view.buf, finds ? where->view.buf : NULL, tells ? fired->view.buf : NULL, rests};
    if (!parts_fit(&batch, firsts, rests, concepts))
        goto done;
    Py_BEGIN_ALLOW_THREADS
    merge_all(&all, &batch, neurons);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    let_go(arrays, ARGUMENTS);
    return result;
}
