/* The product of two matrices as the layers of small networks need it.
 *
 * With 64-wide layers a product lasts two microseconds, and a general library loses most of its speed on calls
 * and, on some processors, on narrower vectors than the machine has. Here one micro-kernel serves the three
 * products of a linear layer, and bias, ReLU and gradients of activations cost nothing, because they are applied
 * while results are in registers. */
#include "product.h"

#include "bfloat16.h"

enum { MOST_ROWS = 12 };

/* Some columns of the right operand: in each row n vectors, the last one `last` numbers from the first. */
typedef struct { const float *data; Int row, last; } Panel;
#define COLUMN(j, last) ((j) < n - 1 ? (j) * LANES : (last))

/* The micro-kernel: c[m, n * LANES] = a[m, depth] @ b[depth, n * LANES]; m, n and `rounded` are constants where inlined.
 * The last vector of c starts at column `last`: a ragged edge overlaps its neighbour instead of being masked.
 * Rounded operands are pairs, and depth their number. */
INLINE void tile(const int m, const int n, const int rounded, Int depth, Matrix a, Panel b, float *c, Int c_row,
                 Int last, int width, Epilogue end) {
    Vec sum[MOST_ROWS][VECTORS];
    UNROLL for (int j = 0; j < n; j++) {
        const Vec start = end.bias ? load(end.bias + COLUMN(j, last), width) : (Vec){0};
        UNROLL for (int i = 0; i < m; i++) sum[i][j] = start;
    }
    for (Int k = 0; k < depth; k++) {
        const float *right = b.data + k * b.row;
        UNROLL for (int i = 0; i < m; i++) {
            const float *left = a.data + i * a.row + k * a.column;
            UNROLL for (int j = 0; j < n; j++) {
                const float *column = right + COLUMN(j, b.last);
                if (rounded) sum[i][j] = add_products(sum[i][j], *(const Pair *)left, column);
                else sum[i][j] += *left * *(const Vec *)column;
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < n; j++) {
            const Int at = i * c_row + COLUMN(j, last);
            Vec value = sum[i][j];
            if (end.relu) value = activation_of(RELU, value);
            if (end.gate) value = through_activation(end.activation, value, load(end.gate + at, width));
            store(c + at, value, width);
        }
    }
}

/* One panel: tiles of m rows, the last one overlapping its neighbour too; row by row if there are fewer. */
INLINE void strip(const int m, const int n, const int rounded, Int rows, Int depth, Matrix a, Panel b, float *c,
                  Int c_row, Int last, int width, Epilogue end) {
    const Int step = rows < m ? 1 : m;
    for (Int i = 0; i < rows; i += step) {
        const Int at = i + step > rows ? rows - step : i;
        const Matrix left = {a.data + at * a.row, a.row, a.column};
        const Epilogue here = {end.bias, end.gate ? end.gate + at * c_row : NULL, end.relu, end.activation, 0};
        if (step == m) tile(m, n, rounded, depth, left, b, c + at * c_row, c_row, last, width, here);
        else tile(1, n, rounded, depth, left, b, c + at * c_row, c_row, last, width, here);
    }
}

/* Transpose a block of LANES x LANES into a panel: log2(LANES) perfect shuffles of its rows. */
INLINE void transpose(Vec *x, float *to) {
    Vec y[LANES];
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
            Vec x[LANES];
            for (int i = 0; i < LANES; i++) x[i] = *(const Vec *)(b.data + at + i * b.column);
            transpose(x, panel + at * PANEL);
        }
    } else {
        for (Int k = 0; k < depth; k++, panel += PANEL, b.data += b.row)
            for (int j = 0; j < LANES; j++) panel[j] = j < width ? b.data[j * b.column] : 0;
    }
}

/* The same in pairs of rows, for b with LANES columns. */
static void pack_pairs(Int depth, Matrix b, float *panel) {
    Int k = 0;
    for (; b.row == 1 && k + 2 * LANES <= depth; k += 2 * LANES) {
        Vec x[LANES];
        for (int i = 0; i < LANES; i++) {
            const float *from = b.data + k + i * b.column;
            x[i] = neighbours(*(const Vec *)from, *(const Vec *)(from + LANES));
        }
        transpose(x, panel + k / 2 * PANEL);
    }
    for (; k < depth; k += 2) {
        const float *first = b.data + k * b.row, *second = k + 1 < depth ? first + b.row : NULL;
        Pair *to = (Pair *)panel + k / 2 * PANEL;
        if (b.column == 1) store_pairs(to, first, second, LANES);
        else for (int j = 0; j < LANES; j++) to[j] = pair_of(first[j * b.column], second ? second[j * b.column] : 0);
    }
}

/* The left operand a[rows, depth] in pairs, along its rows, or along its columns where these are contiguous. */
static Matrix pair_up(Int rows, Int depth, Matrix a, float *to) {
    const Int pairs = (depth + 1) / 2;
    if (a.row == 1) {
        for (Int k = 0; k < depth; k += 2) {
            const float *first = a.data + k * a.column, *second = k + 1 < depth ? first + a.column : NULL;
            for (Int i = 0; i < rows; i += LANES) {
                const int width = rows - i < LANES ? (int)(rows - i) : LANES;
                store_pairs((Pair *)to + k / 2 * rows + i, first + i, second ? second + i : NULL, width);
            }
        }
        return (Matrix){to, 1, rows};
    }
    for (Int i = 0; i < rows; i++) {
        const float *from = a.data + i * a.row;
        Int k = 0;
        for (; a.column == 1 && k + 2 * LANES <= depth; k += 2 * LANES)
            *(Vec *)(to + i * pairs + k / 2) = neighbours(*(const Vec *)(from + k), *(const Vec *)(from + k + LANES));
        for (; k < depth; k += 2)
            ((Pair *)to)[i * pairs + k / 2] = pair_of(from[k * a.column], k + 1 < depth ? from[(k + 1) * a.column] : 0);
    }
    return (Matrix){to, pairs, 1};
}

/* c[rows, columns] = a[rows, depth] @ b[depth, columns]; c is contiguous. Working space: `panel` of depth * PANEL
 * numbers, and where operands are rounded, rows * (depth + 1) / 2 more. */
void product(Int rows, Int columns, Int depth, Matrix a, Matrix b, float *c, Epilogue end,
                    float *panel) {
    if (columns == 1 && rows > 1 && !end.relu) { /* a column is a row: now vectors run along it */
        const Matrix left = {b.data, b.column, b.row}, right = {a.data, a.column, a.row};
        product(1, rows, depth, left, right, c, (Epilogue){NULL, end.gate, 0, end.activation, 0}, panel);
        for (Int i = 0; end.bias && i < rows; i++) c[i] += *end.bias;
        return;
    }
    const int width = columns < LANES ? (int)columns : LANES;
    /* A copy pays where vectors must be made, or where distant rows are read more than once. */
    const int rounded = ROUNDS && end.rounded && width == LANES;
    const int copied = rounded || b.column != 1 || width < LANES || (rows > MOST_ROWS && b.row > PANEL);
    if (rounded) a = pair_up(rows, depth, a, panel + depth * PANEL);
    for (Int j = 0; j < columns; j += PANEL) {
        const Int rest = columns - j;
        const int n = rest < PANEL ? (int)((rest + LANES - 1) / LANES) : VECTORS;
        const Int last = rest < n * LANES ? rest - width : (n - 1) * LANES;
        Panel right = {b.data + j, b.row, last};
        if (copied) right = (Panel){panel, PANEL, (n - 1) * LANES};
        for (int v = 0; copied && v < n; v++) {
            const Matrix part = {b.data + (j + COLUMN(v, last)) * b.column, b.row, b.column};
            if (rounded) pack_pairs(depth, part, panel + v * LANES);
            else pack(depth, part, width, panel + v * LANES);
        }
        const Epilogue here = {end.bias ? end.bias + j : NULL, end.gate ? end.gate + j : NULL, end.relu,
                               end.activation, 0};
#define CASE(m, n, width)                                                                              \
    case n:                                                                                            \
        if (rounded) strip(m, n, ROUNDS, rows, (depth + 1) / 2, a, right, c + j, columns, last, LANES, here); \
        else strip(m, n, 0, rows, depth, a, right, c + j, columns, last, width, here);                 \
        break
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

