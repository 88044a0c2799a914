
/* As ${name}_run, and calls hook(context, step, name, done) before each of its steps, with done = 0, and after
 * it, with done = 1. There are at most ${NAME}_STEPS steps, whose numbers begin at 0.
 */
#define ${NAME}_STEPS $steps

typedef void ${name}_hook(void *context, int step, const char *name, int done);
int ${name}_run_hooked($prototype, ${name}_hook *hook, void *context);
