/* Adam (Kingma & Ba 2015, algorithm 1). */
#include <math.h>
#include <stddef.h>

typedef ptrdiff_t Int;

/* One step of Adam on n numbers in place; step_size and scale hold the corrections of the two biases. The new
 * parts (1 - beta) are given, as in float32 the difference 1 - 0.999 would be wrong in its fifth digit. */
__attribute__((visibility("default"))) void adam(Int n, float *restrict row, float *restrict mean, float *restrict square,
          const float *restrict gradient, float new1, float beta2, float new2, float eps, float step_size,
          float scale) {
    for (Int i = 0; i < n; i++) {
        const float g = gradient[i];
        mean[i] += (g - mean[i]) * new1;
        square[i] = square[i] * beta2 + new2 * g * g;
        row[i] -= step_size * mean[i] / (sqrtf(square[i]) * scale + eps);
    }
}
