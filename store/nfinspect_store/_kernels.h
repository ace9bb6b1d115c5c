/* What the compiled loops share: the arrays that they are given, and one build for each kind of processor.

Arguments are checked wherever they are taken, as a wrong shape would read foreign memory. */

#ifndef NFINSPECT_KERNELS_H
#define NFINSPECT_KERNELS_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define KERNEL __attribute__((visibility("hidden")))
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    Py_buffer view;
    int held;
} Array;

/* Take a buffer of `ndim` axes whose items have this size, the last axis contiguous. Returns 0 where it is another. */
static inline int take(PyObject *object, Array *array, int ndim, Py_ssize_t itemsize, int writable, const char *name)
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

static inline void let_go(Array *arrays, int count)
{
    for (int i = 0; i < count; i++)
        if (arrays[i].held)
            PyBuffer_Release(&arrays[i].view);
}

static inline int shaped(const Array *array, Py_ssize_t rows, Py_ssize_t columns, const char *name)
{
    const Py_ssize_t *shape = array->view.shape;
    int fits = array->view.ndim == 1 ? shape[0] == columns
                                     : shape[0] == rows && shape[1] == columns;
    if (!fits)
        PyErr_Format(PyExc_ValueError, "%s: its shape is not that of the others", name);
    return fits;
}

static inline Py_ssize_t row_bytes(const Array *array) { return array->view.strides[0]; }

/* Whether one row of two axes follows the other at once. */
static inline int gapless(const Array *array, const char *name)
{
    const Py_buffer *view = &array->view;
    const int whole = view->shape[0] < 2 || view->shape[1] < 1 || view->strides[0] == view->shape[1] * view->itemsize;
    if (!whole)
        PyErr_Format(PyExc_ValueError, "%s: expected rows without gaps", name);
    return whole;
}

/* _statistics.c */
KERNEL PyObject *chunk_of(PyObject *self, PyObject *const *given, Py_ssize_t size);
KERNEL PyObject *merge(PyObject *self, PyObject *const *given, Py_ssize_t size);
KERNEL PyObject *prompts(PyObject *self, PyObject *const *given, Py_ssize_t size);
KERNEL PyObject *parts(PyObject *self, PyObject *const *given, Py_ssize_t size);

#endif
