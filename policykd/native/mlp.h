/* What Python (build.py) and torch's operators (ops.cpp) know of the kernels of MLPs. */
#pragma once
#include <stddef.h>

#pragma GCC visibility push(default)

typedef struct {
    const ptrdiff_t *sizes; /* widths from input to output: layers + 1 */
    ptrdiff_t layers, widest;
    ptrdiff_t length;     /* numbers in a row of parameters */
    ptrdiff_t kept;       /* numbers that `forward` keeps of a sample for `backward` */
    int activation, norm; /* RELU, TANH or ELU; whether hidden layers are normalised */
} Network;

/* outputs (networks, samples, sizes[layers]) of inputs with any strides (network, sample, feature). `hidden`
 * takes what backward needs, (networks, samples * kept); NULL if no gradient will be asked for.
 * Returns 0, or -1 without memory. */
int forward(const Network *net, ptrdiff_t networks, ptrdiff_t samples, const float *rows, ptrdiff_t row_stride,
            const float *inputs, ptrdiff_t network, ptrdiff_t sample, ptrdiff_t feature, float *hidden,
            float *outputs);

/* Gradients of rows (networks, length) and of inputs (networks, samples, sizes[0]), each unless NULL, from
 * that of outputs, which comes with any strides as the inputs do. Returns 0, or -1 without memory. */
int backward(const Network *net, ptrdiff_t networks, ptrdiff_t samples, const float *rows, ptrdiff_t row_stride,
             const float *inputs, ptrdiff_t network, ptrdiff_t sample, ptrdiff_t feature, const float *hidden,
             const float *gradient, ptrdiff_t gradient_network, ptrdiff_t gradient_sample,
             ptrdiff_t gradient_feature, float *to_rows, float *to_inputs);

/* Whether products between hidden layers round their operands to bfloat16 from now on; returns what was before, -1 where
 * the processor has no such products. */
int set_bfloat16(int on);

#pragma GCC visibility pop
