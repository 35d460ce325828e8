/* SPDX-License-Identifier: Apache-2.0 */
/* What the test says to the runner, line by line. */
#ifndef PACKETS_LINE_H
#define PACKETS_LINE_H

#include "world.h"

/* ADDRESS@PORT, ADDRESS/PREFIX or ADDRESS; `rest` is what follows @ or /, 0 without. */
struct endpoint line_endpoint(const char *text, int *rest);
uint32_t line_frame(const char *hex, uint8_t *frame, uint32_t capacity);
void line_print_frame(const uint8_t *frame, uint32_t length);
int line_hook(const char *name);
int line_device(const char *name);
/* service PROTOCOL ADDRESS@PORT ALGORITHM FLAGS POLICY AFFINITY [BACKEND[/local]]... */
void line_service(struct world *w);
/* A word of the line being read by strtok; ends the program when there is none. */
char *line_word(const char *what);
int line_number(const char *what);

#endif
