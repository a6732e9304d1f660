/* Sums of matrix products and of their squares, for the type that REAL and the bytes of a vector that VECTOR stands for.

   Of samples n, the products c_n of a left matrix (rows, positions) with a right one (positions, columns): c_n and c_n²
   are added up in registers, and no c_n is kept. What is here is compared with no other way of computing it bit for bit,
   so that a product is added to a sum in one rounding. */

#ifndef TALL
#define TALL 6       /* rows of a tile: with two vectors each they fill the registers */
#define RUN 256      /* positions that are added up by themselves, for the rounding error's sake */
#define TOGETHER 8   /* samples for which a tile stays where it is */

/* The columns are pieces of one length. The strides are in elements; groups of `height` rows have each their own part of
   the right matrix. */
struct products {
    int64_t samples, height, positions, pieces, length, left_sample, left_row, left_position, right_sample, right_group;
};
#endif

typedef REAL wide_REAL_VECTOR __attribute__((vector_size(VECTOR)));
typedef REAL loose_REAL_VECTOR __attribute__((vector_size(VECTOR), aligned(sizeof(REAL)), may_alias));

/* Tiles from `start` to `stop`. `places` says where in the right matrix the row of a position begins, `pieces` where in
   such a row a piece does; past its end the matrix must be readable up to the next multiple of two vectors. `total` and
   `squares`, (rows, pieces, length), are added to. */
TARGET
static void products_REAL_VECTOR(int64_t start, int64_t stop, const struct products p, const REAL *restrict left,
        const REAL *restrict right, const int64_t *restrict places, const int64_t *restrict pieces,
        REAL *restrict total, REAL *restrict squares) {
    enum { LANES = VECTOR / sizeof(REAL), WIDE = 2 * LANES };
    const int64_t tiles = (p.height + TALL - 1) / TALL;
    for (int64_t batch = 0; batch < p.samples; batch += TOGETHER)
    for (int64_t tile = start; tile < stop; tile++) {
        const int64_t group = tile / tiles, above = tile % tiles * TALL, row = group * p.height + above;
        const int64_t tall = p.height - above < TALL ? p.height - above : TALL;
        const int64_t end = batch + TOGETHER < p.samples ? batch + TOGETHER : p.samples;
        for (int64_t piece = 0; piece < p.pieces; piece++)
        for (int64_t column = 0; column < p.length; column += WIDE) {
            wide_REAL_VECTOR sums[TALL][2] = {0}, squared[TALL][2] = {0};
            for (int64_t n = batch; n < end; n++) {
                const REAL *from = right + n * p.right_sample + group * p.right_group + pieces[piece] + column;
                const REAL *at[TALL];  /* rows that are missing repeat the last one */
                for (int i = 0; i < TALL; i++)
                    at[i] = left + n * p.left_sample + (row + (i < tall ? i : tall - 1)) * p.left_row;
                wide_REAL_VECTOR term[TALL][2] = {0};
                for (int64_t first = 0; first < p.positions; first += RUN) {
                    const int64_t last = first + RUN < p.positions ? first + RUN : p.positions;
                    wide_REAL_VECTOR part[TALL][2] = {0};
                    for (int64_t t = first; t < last; t++) {
                        const wide_REAL_VECTOR one = *(const loose_REAL_VECTOR *)(from + places[t]);
                        const wide_REAL_VECTOR two = *(const loose_REAL_VECTOR *)(from + places[t] + LANES);
                        _Pragma("GCC unroll 6")
                        for (int i = 0; i < TALL; i++) {
                            const REAL factor = at[i][t * p.left_position];
                            part[i][0] += factor * one;
                            part[i][1] += factor * two;
                        }
                    }
                    for (int i = 0; i < TALL; i++) for (int k = 0; k < 2; k++) term[i][k] += part[i][k];
                }
                for (int i = 0; i < TALL; i++) for (int k = 0; k < 2; k++) {
                    sums[i][k] += term[i][k];
                    squared[i][k] += term[i][k] * term[i][k];
                }
            }
            const int64_t width = p.length - column < WIDE ? p.length - column : WIDE;
            for (int64_t i = 0; i < tall; i++) {
                const int64_t to = ((row + i) * p.pieces + piece) * p.length + column;
                const REAL *sum = (const REAL *)sums[i], *square = (const REAL *)squared[i];
                for (int64_t k = 0; k < width; k++) {
                    total[to + k] += sum[k];
                    squares[to + k] += square[k];
                }
            }
        }
    }
}

struct products_REAL_VECTOR {
    divided tiles; struct products shape; const REAL *left, *right; const int64_t *places, *pieces; REAL *total, *squares;
};

void varigrad_products_REAL_VECTOR(struct products_REAL_VECTOR *all) {
    for (int64_t start, stop; next_part(&all->tiles, &start, &stop);)
        products_REAL_VECTOR(start, stop, all->shape, all->left, all->right, all->places, all->pieces, all->total,
                all->squares);
}
