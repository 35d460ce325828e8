#include "fuzz.h"
void fuzz_seed(int h,int d,const char*x){(void)h;(void)d;(void)x;}
bool fuzz_run(struct world*w,int h,uint64_t p,uint32_t s){(void)w;(void)h;(void)p;(void)s;return true;}
