
/* There is code for several CPUs. The functions above ask which one they are on at every call, since they keep
 * nothing: that takes a tenth of a microsecond, but tens of them in some virtual machines. Who minds asks once,
 * and calls the functions below; ${name}_cpu returns $levels, or 0 for none of them.
 */
int ${name}_cpu(void);
$functions
