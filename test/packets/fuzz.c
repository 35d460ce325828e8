/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "fuzz.h"

#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "line.h"
#include "model.h"
#include "mutate.h"

static const char *const fate_names[FATES] = { "passed", "dropped", "to backends", "to clients", "answered", "errors" };
static uint64_t fates[FATES], refused, done;
static struct result result;

void fuzz_seed(int hook, int device, const char *hex)
{
	static uint8_t frame[FRAME_MAX];

	mutate_add_seed(hook, device, frame, line_frame(hex, frame, sizeof frame));
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void progress(double since)
{
	double seconds = now() - since;

	printf("%llu packets, %.0f a second:", (unsigned long long)done, done / (seconds > 0 ? seconds : 1));
	for (int i = 0; i < FATES; i++)
		printf(" %llu %s%s", (unsigned long long)fates[i], fate_names[i], i < FATES - 1 ? "," : "");
	printf("; %llu that the kernel does not take\n", (unsigned long long)refused);
}

static void describe(const struct input *in, const char *wrong, uint64_t seed)
{
	printf("packet %llu of seed %llu at %s: %s\nin  ", (unsigned long long)done, (unsigned long long)seed, hook_names[in->hook], wrong);
	line_print_frame(in->frame, in->length);
	printf("\nout %d ", result.verdict);
	line_print_frame(result.frame, result.length);
	puts("");
}

/* False: a promise is broken. `passed`: the packet goes on unchanged. */
static bool run_one(struct world *w, const struct input *in, uint64_t seed, bool *passed)
{
	enum fate fate = FATE_PASSED;
	bool full = false;
	const char *wrong;

	*passed = false;
	if (world_run(w, in->hook, in->device, in->frame, in->length, &result)) {
		refused++;
		*passed = true;
		return true;
	}
	wrong = check(w, in, &result, &fate, &full);
	if (wrong) {
		describe(in, wrong, seed);
		return false;
	}
	fates[fate]++;
	*passed = fate == FATE_PASSED;
	if (full) {
		model_clear();
		world_forget(w);
	}
	return true;
}

bool fuzz_run(struct world *w, int hook, uint64_t packets, uint32_t seed)
{
	static struct input in;
	double start = now(), said = start;
	int ext = if_nametoindex("ext");
	bool passed, good = true;

	random_state = seed * 0x9e3779b97f4a7c15ull | 1;
	memset(fates, 0, sizeof fates);
	refused = 0;
	model_clear();
	world_forget(w);
	for (done = 0; done < packets && good; done++) {
		model_clock = done + 1;
		if (!(done & 511))
			w->node->dispatch = random_below(4);
		mutate_next(w, &in);
		if (!in.device)
			in.device = ext;
		/* What comes in may come in by the driver first. */
		passed = true;
		if (in.hook == HOOK_INGRESS && (hook == HOOK_XDP || (hook < 0 && done & 1))) {
			in.hook = HOOK_XDP;
			good = run_one(w, &in, seed, &passed);
			in.hook = HOOK_INGRESS;
		}
		if (good && passed)
			good = run_one(w, &in, seed, &passed);
		if (!(done & 4095) && now() - said >= 1) {
			said = now();
			progress(start);
		}
	}
	progress(start);
	return good;
}
