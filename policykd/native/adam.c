/* One step of Adam (Kingma & Ba 2015, algorithm 1) in place on rows of `length` numbers, which may be parts of longer
 * ones, each at its own rate: `rates` has a stride, 0 for one rate of all. The new parts (1 - beta) are given, as in
 * float32 the difference 1 - 0.999 would be wrong in its fifth digit; correction1 and scale2 hold the corrections of the
 * two biases. */
#include <math.h>

#include "pool.h"

typedef struct {
    Int length, row_stride, rate_stride;
    float *row, *mean, *square;
    const float *gradient, *rates;
    float new1, beta2, new2, eps, scale2;
    double correction1;
} Adam;

static void adam_task(void *task, Int r, int worker) {
    (void)worker;
    const Adam t = *(const Adam *)task;
    float *restrict row = t.row + r * t.row_stride, *restrict mean = t.mean + r * t.length;
    float *restrict square = t.square + r * t.length;
    const float *restrict gradient = t.gradient + r * t.length;
    const float step = (float)(t.rates[r * t.rate_stride] / t.correction1);
    for (Int i = 0; i < t.length; i++) {
        const float g = gradient[i];
        mean[i] += (g - mean[i]) * t.new1;
        square[i] = square[i] * t.beta2 + t.new2 * g * g;
        row[i] -= step * mean[i] / (sqrtf(square[i]) * t.scale2 + t.eps);
    }
}

__attribute__((visibility("default"))) void adam(
    Int rows, Int length, Int row_stride, float *row, float *mean, float *square, const float *gradient,
    const float *rates, Int rate_stride, float new1, float beta2, float new2, float eps, double correction1, float scale2) {
    Adam task = {length, row_stride, rate_stride, row,  mean, square,     gradient, rates,
                 new1,   beta2,      new2,        eps, scale2, correction1};
    parallel(rows, workers_for(rows, 20.0 * (double)(rows * length)), adam_task, &task);
}
