/* Forward and backward pass of many small MLPs, and Adam, on one thread.
 *
 * With 64-wide layers a matrix product lasts two microseconds, and a general library loses most of its speed
 * on calls and, on some processors, on narrower vectors than the machine has. Here one micro-kernel serves
 * the three products of a linear layer, a network stays in cache from its first layer to its last, and bias,
 * ReLU and gradients of activations cost nothing, because they are applied while results are in registers.
 *
 * Numbers are float32. Parameters of a network: weight (in, out) row-major, bias (out,), layer by layer. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 }; /* 6 x 4 sums and 4 operands fit 32 registers */
#else
enum { LANES = 8, VECTORS = 2 }; /* 6 x 2 sums fit 16 registers of 8 numbers, or 32 of 4 */
#endif
enum { PANEL = LANES * VECTORS, MOST_ROWS = 12 };

typedef ptrdiff_t Int;
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* 4: at any address */
typedef int Mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16") /* or sums would not stay in registers */

typedef struct { const float *data; Int row, column; } Matrix; /* and strides: to transpose is to swap them */

/* What happens to results before they are stored. */
typedef struct {
    const float *bias; /* (N,) added to every row, or NULL */
    const float *gate; /* like the result, times the gradient of the activation whose output this is; or NULL */
    int relu, tanh;    /* tanh: the activation of `gate`, else it is ReLU */
} Epilogue;

/* A vector of which only the first `width` numbers exist in memory. */
INLINE Vec load(const float *from, int width) {
    if (width == LANES) return *(const Vec *)from;
    float copy[LANES];
    for (int i = 0; i < LANES; i++) copy[i] = i < width ? from[i] : 0;
    return *(Vec *)copy;
}

INLINE void store(float *to, Vec value, int width) {
    for (int i = 0; width < LANES && i < width; i++) to[i] = value[i];
    if (width == LANES) *(Vec *)to = value;
}

INLINE Vec zero_where(Mask mask, Vec value) { return (Vec)(~mask & (Mask)value); }
INLINE Vec choose(Mask mask, Vec yes, Vec no) { return (Vec)((mask & (Mask)yes) | (~mask & (Mask)no)); }

/* tanh(x) = x p(x^2) / q(x^2), the rational approximation of Eigen and XLA: off by at most 5 units in the last
 * place. Beyond 7.9 it is 1 or -1 in float32; below 0.0004 it is x. NaN passes. */
INLINE Vec tanh_of(Vec x) {
    const Vec bound = (Vec){0} + 7.90531110763549805f;
    const Vec y = choose(x > bound, bound, choose(x < -bound, -bound, x)), z = y * y;
    Vec p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * z + -8.60467152213735e-11f;
    p = p * z + 5.12229709037114e-08f;
    p = p * z + 1.48572235717979e-05f;
    p = p * z + 6.37261928875436e-04f;
    p = p * z + 4.89352455891786e-03f;
    Vec q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * z + 2.26843463243900e-03f;
    q = q * z + 4.89352518554385e-03f;
    return choose(z < 1.6e-7f, x, y * p / q);
}

/* Some columns of the right operand: in each row n vectors, the last one `last` numbers from the first. */
typedef struct { const float *data; Int row, last; } Panel;
#define COLUMN(j, last) ((j) < n - 1 ? (j) * LANES : (last))

/* The micro-kernel: c[m, n * LANES] = a[m, depth] @ b[depth, n * LANES]; m and n are constants where inlined.
 * The last vector of c starts at column `last`: a ragged edge overlaps its neighbour instead of being masked.
 * Comparisons are such that NaN passes, as it does in torch: a diverged network must stay visible. */
INLINE void tile(const int m, const int n, Int depth, Matrix a, Panel b, float *c, Int c_row, Int last,
                 int width, Epilogue end) {
    Vec sum[MOST_ROWS][VECTORS];
    UNROLL for (int j = 0; j < n; j++) {
        const Vec start = end.bias ? load(end.bias + COLUMN(j, last), width) : (Vec){0};
        UNROLL for (int i = 0; i < m; i++) sum[i][j] = start;
    }
    for (Int k = 0; k < depth; k++) {
        const float *right = b.data + k * b.row;
        UNROLL for (int i = 0; i < m; i++) {
            const float left = a.data[i * a.row + k * a.column];
            UNROLL for (int j = 0; j < n; j++) sum[i][j] += left * *(const Vec *)(right + COLUMN(j, b.last));
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) {
            const Int at = i * c_row + COLUMN(j, last);
            Vec value = sum[i][j];
            if (end.relu) value = zero_where(value < 0, value);
            if (end.gate) {
                const Vec gate = load(end.gate + at, width);
                if (end.tanh) value *= 1 - gate * gate;
                else value = zero_where(gate <= 0, value);
            }
            store(c + at, value, width);
        }
    }
}

/* One panel: tiles of m rows, the last one overlapping its neighbour too; row by row if there are fewer. */
INLINE void strip(const int m, const int n, Int rows, Int depth, Matrix a, Panel b, float *c, Int c_row,
                  Int last, int width, Epilogue end) {
    const Int step = rows < m ? 1 : m;
    for (Int i = 0; i < rows; i += step) {
        const Int at = i + step > rows ? rows - step : i;
        const Matrix left = {a.data + at * a.row, a.row, a.column};
        const Epilogue here = {end.bias, end.gate ? end.gate + at * c_row : NULL, end.relu, end.tanh};
        if (step == m) tile(m, n, depth, left, b, c + at * c_row, c_row, last, width, here);
        else tile(1, n, depth, left, b, c + at * c_row, c_row, last, width, here);
    }
}

#if defined(__AVX512F__)
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(x, y) __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(x, y) __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)
#endif

/* Transpose a block of LANES x LANES: log2(LANES) perfect shuffles of its rows. */
static void transpose(const float *from, Int from_row, float *to) {
    Vec x[LANES], y[LANES];
    for (int i = 0; i < LANES; i++) x[i] = *(const Vec *)(from + i * from_row);
    UNROLL for (int round = 1; round < LANES; round *= 2) {
        UNROLL for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = LOW(x[i], x[i + LANES / 2]);
            y[2 * i + 1] = HIGH(x[i], x[i + LANES / 2]);
        }
        UNROLL for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
    for (int i = 0; i < LANES; i++) *(Vec *)(to + i * PANEL) = x[i];
}

/* Copy `width` columns of b into one vector column of a panel, padded with zeros. */
static void pack(Int depth, Matrix b, int width, float *panel) {
    if (width == LANES && b.column == 1) {
        for (Int k = 0; k < depth; k++) *(Vec *)(panel + k * PANEL) = *(const Vec *)(b.data + k * b.row);
    } else if (width == LANES && b.row == 1 && depth >= LANES) {
        for (Int k = 0; k < depth; k += LANES) {
            const Int at = k + LANES > depth ? depth - LANES : k;
            transpose(b.data + at, b.column, panel + at * PANEL);
        }
    } else {
        for (Int k = 0; k < depth; k++, panel += PANEL, b.data += b.row)
            for (int j = 0; j < LANES; j++) panel[j] = j < width ? b.data[j * b.column] : 0;
    }
}

/* c[rows, columns] = a[rows, depth] @ b[depth, columns]; c is contiguous, panel of depth * PANEL numbers. */
static void product(Int rows, Int columns, Int depth, Matrix a, Matrix b, float *c, Epilogue end,
                    float *panel) {
    if (columns == 1 && rows > 1 && !end.relu) { /* a column is a row: now vectors run along it */
        const Matrix left = {b.data, b.column, b.row}, right = {a.data, a.column, a.row};
        product(1, rows, depth, left, right, c, (Epilogue){NULL, end.gate, 0, end.tanh}, panel);
        for (Int i = 0; end.bias && i < rows; i++) c[i] += *end.bias;
        return;
    }
    const int width = columns < LANES ? (int)columns : LANES;
    /* A copy pays where vectors must be made, or where distant rows are read more than once. */
    const int copied = b.column != 1 || width < LANES || (rows > MOST_ROWS && b.row > PANEL);
    for (Int j = 0; j < columns; j += PANEL) {
        const Int rest = columns - j;
        const int n = rest < PANEL ? (int)((rest + LANES - 1) / LANES) : VECTORS;
        const Int last = rest < n * LANES ? rest - width : (n - 1) * LANES;
        Panel right = {b.data + j, b.row, last};
        if (copied) right = (Panel){panel, PANEL, (n - 1) * LANES};
        for (int v = 0; copied && v < n; v++) {
            const Matrix part = {b.data + (j + COLUMN(v, last)) * b.column, b.row, b.column};
            pack(depth, part, width, panel + v * LANES);
        }
        const Epilogue here = {end.bias ? end.bias + j : NULL, end.gate ? end.gate + j : NULL, end.relu,
                               end.tanh};
#define CASE(m, n, width) \
    case n: strip(m, n, rows, depth, a, right, c + j, columns, last, width, here); break
        switch (n) { /* the fewer vectors, the more rows: many sums in flight hide the latency of one */
            CASE(12, 1, width);
            CASE(VECTORS == 2 ? 6 : 12, 2, LANES);
#if defined(__AVX512F__)
            CASE(8, 3, LANES);
            CASE(6, 4, LANES);
#endif
        }
    }
}

/* In place; apart from the products, whose unrolled tiles would each hold a copy of it. */
static void apply_tanh(Int count, float *x) {
    Int i = 0;
    for (; i + LANES <= count; i += LANES) *(Vec *)(x + i) = tanh_of(*(Vec *)(x + i));
    const int rest = (int)(count - i);
    if (rest) store(x + i, tanh_of(load(x + i, rest)), rest);
}

/* outputs (networks, samples, sizes[layers]) of inputs with any strides (network, sample, feature). `hidden`
 * takes what backward needs, network by network, of each layer by layer (samples, width) after the activation,
 * which is ReLU or tanh; NULL if no gradient will be asked for. Returns 0, or -1 without memory. */
int forward(Int networks, Int samples, Int layers, const Int *sizes, Int widest, int tanh, const float *rows,
            Int row_stride, const float *inputs, Int network, Int sample, Int feature, float *hidden,
            float *outputs) {
    const Int last = samples * sizes[layers];
    float *panel = malloc(sizeof(float) * (size_t)(widest * PANEL + 2 * samples * widest));
    if (!panel) return -1;
    float *spare[2] = {panel + widest * PANEL, panel + widest * PANEL + samples * widest};
    for (Int r = 0; r < networks; r++) {
        const float *weight = rows + r * row_stride;
        Matrix x = {inputs + r * network, sample, feature};
        for (Int l = 0; l < layers; l++) {
            const Int in = sizes[l], out = sizes[l + 1];
            float *y = l == layers - 1 ? outputs + r * last : hidden ? hidden : spare[l % 2];
            const Epilogue end = {weight + in * out, NULL, l < layers - 1 && !tanh, 0};
            product(samples, out, in, x, (Matrix){weight, out, 1}, y, end, panel);
            if (l < layers - 1 && tanh) apply_tanh(samples * out, y);
            if (hidden && l < layers - 1) hidden += samples * out;
            weight += in * out + out;
            x = (Matrix){y, out, 1};
        }
    }
    free(panel);
    return 0;
}

/* Gradients of rows (networks, length) and of inputs (networks, samples, sizes[0]), each unless NULL, from
 * that of outputs, which comes with any strides as the inputs do. Returns 0, or -1 without memory. */
int backward(Int networks, Int samples, Int layers, const Int *sizes, Int widest, int tanh, const float *rows,
             Int row_stride, const float *inputs, Int network, Int sample, Int feature, const float *hidden,
             const float *outputs, Int network_out, Int sample_out, Int feature_out, float *to_rows,
             float *to_inputs) {
    static const float one = 1;
    const Int deepest = widest > samples ? widest : samples;
    float *panel = malloc(sizeof(float) * (size_t)(deepest * PANEL + 2 * samples * widest));
    if (!panel) return -1;
    float *spare[2] = {panel + deepest * PANEL, panel + deepest * PANEL + samples * widest};
    Int length = 0, kept = 0; /* numbers in a row, and in the activations of a network */
    for (Int l = 0; l < layers; l++) {
        length += (sizes[l] + 1) * sizes[l + 1];
        kept += l ? samples * sizes[l] : 0;
    }
    for (Int r = 0; r < networks; r++) {
        const float *weight = rows + r * row_stride + length, *x = hidden + r * kept + kept;
        float *gradient = to_rows ? to_rows + (r + 1) * length : NULL;
        Matrix g = {outputs + r * network_out, sample_out, feature_out};
        for (Int l = layers - 1; l >= 0; l--) {
            const Int in = sizes[l], out = sizes[l + 1];
            weight -= (in + 1) * out;
            x -= l ? samples * in : 0;
            const Matrix turned = l ? (Matrix){x, 1, in} : (Matrix){inputs + r * network, feature, sample};
            if (to_rows) {
                gradient -= (in + 1) * out;
                product(in, out, samples, turned, g, gradient, (Epilogue){0}, panel);
                product(1, out, samples, (Matrix){&one, 0, 0}, g, gradient + in * out, (Epilogue){0}, panel);
            }
            if (l == 0 && !to_inputs) break;
            float *y = l ? spare[l % 2] : to_inputs + r * samples * in;
            const Epilogue end = {NULL, l ? x : NULL, 0, tanh};
            product(samples, in, out, g, (Matrix){weight, 1, out}, y, end, panel);
            g = (Matrix){y, in, 1};
        }
    }
    free(panel);
    return 0;
}

/* One step of Adam on n numbers in place; step_size and scale hold the corrections of the two biases. The new
 * parts (1 - beta) are given, as in float32 the difference 1 - 0.999 would be wrong in its fifth digit. */
void adam(Int n, float *restrict row, float *restrict mean, float *restrict square,
          const float *restrict gradient, float new1, float beta2, float new2, float eps, float step_size,
          float scale) {
    for (Int i = 0; i < n; i++) {
        const float g = gradient[i];
        mean[i] += (g - mean[i]) * new1;
        square[i] = square[i] * beta2 + new2 * g * g;
        row[i] -= step_size * mean[i] / (sqrtf(square[i]) * scale + eps);
    }
}
