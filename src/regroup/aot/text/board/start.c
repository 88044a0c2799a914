/* The start of a program on the board $board, as QEMU has it; files come by semihosting (newlib's rdimon). */

extern unsigned char stack_top[], end[], heap_end[];
void _start(void);
void *_sbrk(int bytes);

static void reset(void) {
    *(volatile unsigned *)0xE000ED88u |= 0xFu << 20; /* the unit for floats and vectors may be used */
    __asm volatile("dsb\n isb");
    _start();
}

static void fault(void) {
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};

/* What malloc takes memory from. */
void *_sbrk(int bytes) {
    static unsigned char *top = end;
    unsigned char *before = top;
    if (bytes > heap_end - top)
        return (void *)-1;
    top += bytes;
    return before;
}
