#pragma once
#include "vectors.h"

typedef struct { const float *data; Int row, column; } Matrix; /* and strides: to transpose is to swap them */

/* What happens to results before they are stored. */
typedef struct {
    const float *bias;    /* (N,) added to every row, or NULL */
    const float *gate;    /* like the result: outputs of an activation, through which it passes back; or NULL */
    int relu, activation; /* apply ReLU; the activation of `gate` */
    int rounded;          /* round the operands to bfloat16, where the processor has such products */
} Epilogue;

/* c[rows, columns] = a[rows, depth] @ b[depth, columns]; c is contiguous. Working space: `panel` of depth * PANEL
 * numbers, and where operands are rounded, rows * (depth + 1) / 2 more. */
void product(Int rows, Int columns, Int depth, Matrix a, Matrix b, float *c, Epilogue end, float *panel);
