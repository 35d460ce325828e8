/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many instructions the verifier walks for each program, as JSON: verified OBJECTS. {"VARIANT/OBJECT/PROGRAM":N,...}. Programs are set up as the
 * library does on this kernel; nothing is attached.
 */
#include "fixture.h"

#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>

static bool first = true;

static void print_programs(const struct fixture *f, const char *name, struct bpf_object *object)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, object) {
		struct bpf_prog_info info = {};
		__u32 length = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(p), &info, &length))
			die("%s", bpf_program__name(p));
		printf("%s\n  \"%s/%s/%s\": %u", first ? "" : ",", f->variant.name, name, bpf_program__name(p), info.verified_insns);
		first = false;
	}
}

static void print_object(struct fixture *f, const char *name)
{
	struct bpf_object *object = fixture_open_object(f, name);

	if (bpf_object__load(object))
		die("load %s", name);
	print_programs(f, name, object);
	if (!f->packets && !strcmp(name, "tc_lb"))
		f->packets = object; /* its maps are for all */
	else
		bpf_object__close(object);
}

int main(int count, char **arguments)
{
	static const struct variant variants[] = {
		{ .name = "current", .cast = true, .retval = true },
		{ .name = "legacy", .legacy = true },
	};

	if (count != 2)
		return 2;
	printf("{");
	for (int i = 0; i < 2; i++) {
		struct fixture f;

		fixture_open_maps(&f, arguments[1], &variants[i]);
		print_programs(&f, "decide", f.decide);
		for (int n = 0; n < 5; n++) {
			static const char *const names[] = { "socket_lb", "sweep", "destroy", "tc_lb", "xdp_lb" };

			/* bpf_sock_destroy is not for kernels of the other build. */
			if (!strcmp(names[n], "destroy") && variants[i].legacy)
				continue;
			print_object(&f, names[n]);
		}
	}
	puts("\n}");
	return 0;
}
