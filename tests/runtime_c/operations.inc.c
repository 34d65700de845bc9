/* Included by operations.c, with X, I, B, REAL, INT and LANES defined: all operations on one type. */
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define V(name) JOIN(JOIN(v, X), _##name)
#define VI(name) JOIN(JOIN(v, I), _##name)
#define M(name) JOIN(JOIN(m, X), _##name)
#define VB(name) JOIN(JOIN(v, B), _##name)
#define VEC JOIN(v, X)
#define IVEC JOIN(v, I)
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define NAME(prefix, name) TEXT(prefix) "_" name

/* n elements by whole vectors and a tail, for n = 0 ... 2 LANES + 1 and for all. */
#define EACH(prefix, name, out, element, body)                                      \
    for (int n = 0; n <= SIZE; n = n == 2 * LANES + 1 ? SIZE : n + 1) {             \
        memset(out, GUARD_BYTE, sizeof out);                                        \
        for (int i = 0; i < n; i += LANES) {                                        \
            const int part = n - i < LANES ? n - i : LANES;                         \
            const VEC x = V(load_n)(a + i, part), y = V(load_n)(b + i, part);       \
            const VEC w = V(load_n)(c + i, part);                                   \
            const IVEC ix = VI(load_n)(ia + i, part), iy = VI(load_n)(ib + i, part); \
            (void)x, (void)y, (void)w, (void)ix, (void)iy;                          \
            body;                                                                   \
        }                                                                           \
        emit(NAME(prefix, name), n, n + GUARD, out, sizeof(element));               \
        if (n == SIZE)                                                              \
            break;                                                                  \
    }
#define REALS(name, expression) EACH(X, name, out, REAL, V(store_n)(out + i, expression, part))
#define INTS(name, expression) EACH(I, name, iout, INT, VI(store_n)(iout + i, expression, part))
#define BYTES(name, expression) EACH(JOIN(u8_, X), name, bout, unsigned char, VB(store_n)(bout + i, expression, part))
#define MASKS(name, expression) REALS(name, V(select)(expression, V(set1)(1), V(zero)()))

static void JOIN(run_, X)(void)
{
    REAL a[SIZE], b[SIZE], c[SIZE], out[SIZE + GUARD];
    INT ia[SIZE], ib[SIZE], iout[SIZE + GUARD];
    unsigned char ba[SIZE], bb[SIZE], bout[SIZE + GUARD];
    for (int i = 0; i < SIZE; i++)
        ba[i] = (unsigned char)(i * 37 % 128), bb[i] = (unsigned char)(i % 3 ? i * 53 % 128 : ba[i]);
    receive(a, sizeof *a, SIZE);
    receive(b, sizeof *b, SIZE);
    receive(c, sizeof *c, SIZE);
    receive(ia, sizeof *ia, SIZE);
    receive(ib, sizeof *ib, SIZE);

    REALS("add", V(add)(x, y))
    REALS("sub", V(sub)(x, y))
    REALS("mul", V(mul)(x, y))
    REALS("div", V(div)(x, y))
    REALS("fma", V(fma)(x, y, w))
    REALS("fnma", V(fnma)(x, y, w))
    REALS("neg", V(neg)(x))
    REALS("abs", V(abs)(x))
    REALS("sqrt", V(sqrt)(x))
    REALS("min", V(min)(x, y))
    REALS("max", V(max)(x, y))
    REALS("floor", V(floor)(x))
    REALS("trunc", V(trunc)(x))
    REALS("round", V(round)(x))
    REALS("to_float", VI(to_float)(ix))
    REALS("from_bits", V(from_bits)(ix))
    REALS("select", V(select)(V(lt)(x, y), x, w))
    MASKS("lt", V(lt)(x, y))
    MASKS("le", V(le)(x, y))
    MASKS("gt", V(gt)(x, y))
    MASKS("ge", V(ge)(x, y))
    MASKS("eq", V(eq)(x, y))
    MASKS("ne", V(ne)(x, y))
    MASKS("and", M(and)(V(lt)(x, y), V(gt)(w, y)))
    MASKS("or", M(or)(V(lt)(x, y), V(gt)(w, y)))
    MASKS("not", M(not)(V(lt)(x, y)))
    MASKS("int_lt", VI(lt)(ix, iy))
    MASKS("int_eq", VI(eq)(ix, iy))
    MASKS("tail", V(tail)(part / 2))

    INTS("to_int", V(to_int)(x))
    INTS("bits", V(bits)(x))
    INTS("add", VI(add)(ix, iy))
    INTS("sub", VI(sub)(ix, iy))
    INTS("mul", VI(mul)(ix, iy))
    INTS("and", VI(and)(ix, iy))
    INTS("or", VI(or)(ix, iy))
    INTS("xor", VI(xor)(ix, iy))
    INTS("shl", VI(shl)(ix, 3))
    INTS("shr", VI(shr)(ix, 3))
    INTS("select", VI(select)(VI(lt)(ix, iy), ix, VI(set1)(7)))

    MASKS("byte_eq", VB(eq)(VB(load)(ba + i), VB(load)(bb + i)))
    BYTES("load", VB(load)(ba + i))
    BYTES("set1", VB(set1)(255))
    BYTES("add", VB(add)(VB(load)(ba + i), VB(load)(bb + i)))
    BYTES("select", VB(select)(V(lt)(x, y), VB(load)(ba + i), VB(load)(bb + i)))

    /* memory: whole vectors, then every n; element i of a strided or gathered vector is at stride * i or idx[i] */
    static const ptrdiff_t strides[] = {1, 2, 3, -1, -3};
    _Alignas(64) REAL wide[LANES];
    INT idx[LANES], any[2];
    for (int i = 0; i < LANES; i++)
        idx[i] = (INT)((i * 37 + 11) % SIZE);
    V(store)(wide, V(load)(a + 1));
    emit(NAME(X, "load"), LANES, LANES, wide, sizeof *wide);
    V(stream)(wide, V(load)(a + 2));
    lossc_stream_fence();
    emit(NAME(X, "stream"), LANES, LANES, wide, sizeof *wide);
    const VEC first = V(load)(a), second = V(load)(a + LANES);
    V(store)(wide, V(even)(first, second));
    emit(NAME(X, "even"), LANES, LANES, wide, sizeof *wide);
    V(store)(wide, V(odd)(first, second));
    emit(NAME(X, "odd"), LANES, LANES, wide, sizeof *wide);
    V(store)(wide, V(zip_low)(first, second));
    emit(NAME(X, "zip_low"), LANES, LANES, wide, sizeof *wide);
    V(store)(wide, V(zip_high)(first, second));
    emit(NAME(X, "zip_high"), LANES, LANES, wide, sizeof *wide);
    memset(bout, GUARD_BYTE, sizeof bout);
    VB(store)(bout, VB(load)(ba + 1));
    emit(NAME(JOIN(u8_, X), "store"), LANES, SIZE + GUARD, bout, sizeof *bout);
    V(store)(wide, V(iota)());
    emit(NAME(X, "iota"), LANES, LANES, wide, sizeof *wide);
    VI(store)(iout, VI(iota)());
    emit(NAME(I, "iota"), LANES, LANES, iout, sizeof *iout);
    VI(store)(iout, VI(load)(ia + 1));
    emit(NAME(I, "load"), LANES, LANES, iout, sizeof *iout);
    V(store)(wide, V(gather)(a, VI(load)(idx)));
    emit(NAME(X, "gather"), LANES, LANES, wide, sizeof *wide);
    for (int n = 0; n <= LANES; n++) {
        V(store)(wide, V(load_n)(a + 1, n));
        emit(NAME(X, "load_n"), n, LANES, wide, sizeof *wide);
        V(store)(wide, V(gather_n)(a, VI(load)(idx), n));
        emit(NAME(X, "gather_n"), n, LANES, wide, sizeof *wide);
        VI(store)(iout, VI(load_n)(ia + 1, n));
        emit(NAME(I, "load_n"), n, LANES, iout, sizeof *iout);
    }
    VEC column[4];
    V(load_columns)(a + 1, 3, column);
    for (int k = 0; k < 4; k++) {
        V(store)(wide, column[k]);
        emit(NAME(X, "load_columns"), k, LANES, wide, sizeof *wide);
    }
    for (size_t s = 0; s < sizeof strides / sizeof *strides; s++) {
        const ptrdiff_t stride = strides[s], start = stride < 0 ? SIZE - 1 : 0;
        char name[64];
        V(store)(wide, V(load_strided)(a + start, stride));
        snprintf(name, sizeof name, "%s%d", NAME(X, "load_strided"), (int)stride);
        emit(name, LANES, LANES, wide, sizeof *wide);
        memset(out, GUARD_BYTE, sizeof out);
        V(store_strided)(out + start, V(load)(a), stride);
        snprintf(name, sizeof name, "%s%d", NAME(X, "store_strided"), (int)stride);
        emit(name, LANES, SIZE, out, sizeof *out);
        for (int n = 0; n <= LANES; n++) {
            V(store)(wide, V(load_strided_n)(a + start, stride, n));
            snprintf(name, sizeof name, "%s%d", NAME(X, "load_strided_n"), (int)stride);
            emit(name, n, LANES, wide, sizeof *wide);
            memset(out, GUARD_BYTE, sizeof out);
            V(store_strided_n)(out + start, V(load)(a), stride, n);
            snprintf(name, sizeof name, "%s%d", NAME(X, "store_strided_n"), (int)stride);
            emit(name, n, SIZE, out, sizeof *out);
        }
    }

    memset(out, GUARD_BYTE, sizeof out);
    V(turn4)(a + 1, 11, out + 2, 13);
    emit(NAME(X, "turn4"), 4, SIZE, out, sizeof *out);

    for (int i = 0; i + LANES <= SIZE; i++) {
        out[0] = V(sum)(V(load)(c + i));
        out[1] = V(reduce_max)(V(load)(a + i));
        out[2] = V(reduce_min)(V(load)(a + i));
        emit(NAME(X, "reduce"), i, 3, out, sizeof *out);
        any[0] = M(any)(V(lt)(V(load)(a + i), V(zero)()));
        any[1] = M(any)(V(tail)(i % LANES));
        emit(NAME(I, "any"), i, 2, any, sizeof *any);
    }
}

#undef JOIN2
#undef JOIN
#undef V
#undef VI
#undef M
#undef VB
#undef VEC
#undef IVEC
#undef TEXT2
#undef TEXT
#undef NAME
#undef EACH
#undef REALS
#undef INTS
#undef BYTES
#undef MASKS
#undef X
#undef I
#undef B
#undef REAL
#undef INT
#undef LANES
