/* One step of Adam (Kingma & Ba 2015, algorithm 1) in place on rows of `length` numbers, each at its own rate:
 * `rates` has a stride, 0 for one rate of all. The new parts (1 - beta) are given, as in float32 the difference
 * 1 - 0.999 would be wrong in its fifth digit; correction1 and scale2 hold the corrections of the two biases. */
#include <math.h>
#include <stddef.h>

typedef ptrdiff_t Int;

__attribute__((visibility("default"))) void adam(
    Int rows, Int length, float *restrict row, float *restrict mean, float *restrict square,
    const float *restrict gradient, const float *rates, Int rate_stride, float new1, float beta2, float new2,
    float eps, double correction1, float scale2) {
    for (Int r = 0; r < rows; r++, row += length, mean += length, square += length, gradient += length) {
        const float step = (float)(rates[r * rate_stride] / correction1);
        for (Int i = 0; i < length; i++) {
            const float g = gradient[i];
            mean[i] += (g - mean[i]) * new1;
            square[i] = square[i] * beta2 + new2 * g * g;
            row[i] -= step * mean[i] / (sqrtf(square[i]) * scale2 + eps);
        }
    }
}
