/* SPDX-License-Identifier: Apache-2.0 */
/* Which backend is chosen: algorithms, affinity, commits; and that explain() chooses the same. */
#define _GNU_SOURCE
#include "rules.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <unistd.h>

/* The backend that a socket's record names. */
static uint32_t chosen(struct world *w, int fd)
{
	return lb_ref_index(record_of(w, fd).backend_ref);
}

static uint32_t choose(struct world *w, struct endpoint vip)
{
	int fd = open_connected(AF_INET, SOCK_DGRAM, vip);
	uint32_t backend = chosen(w, fd);

	close(fd);
	return backend;
}

static uint64_t cookie_of(int fd, int option)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof cookie;

	getsockopt(fd, SOL_SOCKET, option, &cookie, &length);
	return cookie;
}

static struct lb_answer decide(struct world *w, struct endpoint vip, uint64_t client, uint64_t socket)
{
	struct lb_decision question = {}, answer = {};
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = &question, .data_size_in = sizeof question, .data_out = &answer,
		    .data_size_out = sizeof answer, .repeat = 1);

	memcpy(question.query.address, vip.address, 16);
	question.query.port = vip.port;
	question.query.protocol = IPPROTO_UDP;
	question.query.family = vip.family;
	question.query.client = client;
	question.query.socket = socket;
	if (bpf_prog_test_run_opts(bpf_program__fd(bpf_object__find_program_by_name(w->f.decide, "lb_decide")), &run) || run.retval)
		die("lb_decide");
	return answer.answer;
}

static void algorithms(struct world *w)
{
	struct endpoint robin = at4("10.96.1.1", 80), maglev = at4("10.96.1.2", 80), source = at4("10.96.1.3", 80);
	struct service s;
	uint32_t first, other;
	int fd, differ = 0;

	rule = "round robin takes turns";
	s = service_add(&w->f, robin, IPPROTO_UDP, w->backend4, BACKENDS, (struct service_options){ .algorithm = LB_ROUND_ROBIN });
	for (int i = 0; i < 10; i++) {
		struct lb_answer answer = decide(w, robin, 1, 1);
		uint32_t backend = choose(w, robin);

		CHECK(backend == s.backend[i % BACKENDS], "turn %d: %u", i, backend);
		CHECK(w->f.variant.legacy || answer.backend == backend, "explain says %u", answer.backend);
	}

	rule = "maglev: one socket, one backend";
	service_add(&w->f, maglev, IPPROTO_UDP, w->backend4, BACKENDS, (struct service_options){ .algorithm = LB_MAGLEV });
	fd = open_connected(AF_INET, SOCK_DGRAM, maglev);
	first = chosen(w, fd);
	for (int i = 0; i < 20; i++) {
		CHECK(!connect_to(fd, maglev) && chosen(w, fd) == first, "another backend");
		other = choose(w, maglev);
		differ += other != first;
	}
	CHECK(differ > 2, "other sockets all get the same one");
	CHECK(decide(w, maglev, namespace_cookie(w), cookie_of(fd, SO_COOKIE)).backend == first, "explain differs");
	close(fd);

	rule = "source hash: one namespace, one backend";
	service_add(&w->f, source, IPPROTO_UDP, w->backend4, BACKENDS, (struct service_options){ .algorithm = LB_SOURCE_HASH });
	fd = open_connected(AF_INET, SOCK_DGRAM, source);
	first = chosen(w, fd);
	for (int i = 0; i < 20; i++)
		CHECK(choose(w, source) == first, "another backend");
	CHECK(decide(w, source, namespace_cookie(w), 0).backend == first, "explain differs");
	close(fd);
}

static void affinity_key(struct world *w, uint32_t service, struct lb_affinity_key *key)
{
	struct lb_affinity_key *last = NULL, next;

	while (!bpf_map_get_next_key(fixture_map(&w->f, "lb_affinities"), last, &next)) {
		*key = next;
		if (key->service == service)
			return;
		last = key;
	}
	die("no affinity of service %u", service);
}

static void affinity(struct world *w)
{
	struct endpoint vip = at4("10.96.2.1", 80), second = at4("10.96.2.2", 80);
	struct service_options options = { .affinity = 100 };
	struct service s = service_add(&w->f, vip, IPPROTO_UDP, w->backend4, BACKENDS, options);
	int map = fixture_map(&w->f, "lb_affinities"), moved = 0;
	struct lb_affinity_key key;
	struct lb_affinity value;
	uint32_t first, rest[BACKENDS], n = 0;

	options.service = s.service;
	options.indices = s.backend;
	service_add(&w->f, second, IPPROTO_UDP, NULL, BACKENDS, options);

	rule = "explain leaves no affinity";
	decide(w, vip, 4711, 0);
	key = (struct lb_affinity_key){ .service = s.service, .family = LB_IPV4, .kind = LB_CLIENT_NETNS, .client = { 4711 } };
	CHECK(bpf_map_lookup_elem(map, &key, &value), "it did");
	rule = "affinity: one for all frontends of a service";
	first = choose(w, vip);
	for (int i = 0; i < 20; i++)
		CHECK(choose(w, i % 2 ? vip : second) == first, "another backend");
	affinity_key(w, s.service, &key);
	bpf_map_lookup_elem(map, &key, &value);
	CHECK(value.tag == lb_affinity_tag(&key) && value.tag_again == value.tag, "tags");
	CHECK(decide(w, vip, key.client[0], 0).backend == first, "explain differs");
	CHECK(decide(w, vip, key.client[0], 0).flags == LB_ANSWER_AFFINITY, "explain does not see it");
	CHECK(decide(w, vip, key.client[0], 0).affinity_left > 98, "%u", decide(w, vip, key.client[0], 0).affinity_left);

	rule = "affinity slides";
	value.word -= 99ull << 32;
	bpf_map_update_elem(map, &key, &value, BPF_EXIST);
	CHECK(decide(w, vip, key.client[0], 0).affinity_left < 4, "%u", decide(w, vip, key.client[0], 0).affinity_left);
	CHECK(choose(w, vip) == first, "forgotten too early");
	CHECK(decide(w, vip, key.client[0], 0).affinity_left > 98, "%u", decide(w, vip, key.client[0], 0).affinity_left);

	rule = "affinity ends";
	for (int i = 0; i < 30; i++) {
		bpf_map_lookup_elem(map, &key, &value);
		value.word -= 102ull << 32;
		bpf_map_update_elem(map, &key, &value, BPF_EXIST);
		moved += choose(w, vip) != first;
	}
	CHECK(moved > 5, "moved %d times of 30", moved);

	rule = "affinity never goes to a backend that is not in the region";
	first = choose(w, vip);
	for (int i = 0; i < BACKENDS; i++)
		if (s.backend[i] != first)
			rest[n++] = s.backend[i];
	w->f.slots[s.slot].word = lb_slot_final(region_write(&w->f, &s, LB_IPV4, rest, n, options), 1);
	CHECK(choose(w, vip) != first, "the removed one");
	w->f.slots[s.slot].word = lb_slot_final(s.line, 1);
	first = choose(w, vip);
	w->f.backends[first].word += 1ull << 16;
	CHECK(lb_ref_generation(lb_backend_ref(0, 2)) == 2 && choose(w, vip), "another generation");
	w->f.backends[first].word -= 1ull << 16;
}

static struct { struct world *w; struct endpoint vip; pthread_barrier_t barrier; uint32_t got[8]; } race;

static void *racer(void *argument)
{
	int i = (int)(long)argument, fd = open_socket(AF_INET, SOCK_DGRAM);

	pthread_barrier_wait(&race.barrier);
	connect_to(fd, race.vip);
	race.got[i] = chosen(race.w, fd);
	close(fd);
	return NULL;
}

static void affinity_race(struct world *w)
{
	struct service s;
	struct lb_affinity_key key;
	int disagree = 0;

	rule = "affinity: first connects at once agree";
	race.w = w;
	race.vip = at4("10.96.2.3", 80);
	s = service_add(&w->f, race.vip, IPPROTO_UDP, w->backend4, BACKENDS, (struct service_options){ .affinity = 100 });
	pthread_barrier_init(&race.barrier, NULL, 8);
	for (int round = 0; round < 200; round++) {
		pthread_t threads[8];

		for (int i = 0; i < 8; i++)
			pthread_create(&threads[i], NULL, racer, (void *)(long)i);
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
		for (int i = 1; i < 8; i++)
			disagree += race.got[i] != race.got[0];
		affinity_key(w, s.service, &key);
		bpf_map_delete_elem(fixture_map(&w->f, "lb_affinities"), &key);
	}
	CHECK(!disagree, "%d of 1400", disagree);
}

/* Regions of many backends: cells and members in lines of their own. */
static void wide(struct world *w)
{
	struct endpoint vip = at4("10.96.3.1", 80);
	struct service_options options = { .algorithm = LB_ROUND_ROBIN };
	struct service s = service_add(&w->f, vip, IPPROTO_UDP, w->backend4, 1, options);
	uint32_t indices[1000];
	struct lb_affinity_key key;

	for (int i = 0; i < 1000; i++) {
		indices[i] = w->f.next_backend++;
		w->f.backends[indices[i]] = w->f.backends[s.backend[0]];
	}
	rule = "cells beyond the first line";
	w->f.slots[s.slot].word = lb_slot_final(region_write(&w->f, &s, LB_IPV4, indices, 1000, options), 1);
	for (int i = 0; i < 1000; i++) {
		uint32_t backend = choose(w, vip);

		CHECK(backend == indices[i] || w->f.variant.legacy, "cell %d: %u", i, backend);
	}
	rule = "members of a wide region are all found, others not";
	options = (struct service_options){ .affinity = 1000 };
	w->f.slots[s.slot].word = lb_slot_final(region_write(&w->f, &s, LB_IPV4, indices, 1000, options), 1);
	choose(w, vip);
	affinity_key(w, s.service, &key);
	for (int i = -1; i <= 1000; i++) {
		uint32_t backend = i < 0 ? indices[0] - 1 : i == 1000 ? indices[999] + 1 : indices[i];
		struct lb_affinity value = { .tag = lb_affinity_tag(&key), .tag_again = lb_affinity_tag(&key) };
		struct timespec now;

		clock_gettime(CLOCK_BOOTTIME, &now);
		w->f.backends[backend].word |= lb_backend_word(0, 1, 0, 0);
		value.word = (uint64_t)now.tv_sec << 32 | lb_backend_ref(backend, 1);
		bpf_map_update_elem(fixture_map(&w->f, "lb_affinities"), &key, &value, BPF_EXIST);
		CHECK((decide(w, vip, key.client[0], 0).flags == LB_ANSWER_AFFINITY) == (i >= 0 && i < 1000), "member %d", i);
	}
}

/* Ways of other keys: with the tag of this one, and so many that it lies in another line. */
static void crowded(struct world *w, struct endpoint vip, uint32_t slot)
{
	uint64_t key, hash = fixture_key_hash(vip, IPPROTO_UDP, LB_SCOPE_INTERNAL, &key);
	uint32_t home = lb_hash_line(hash), mine = lb_hash_way(hash) | slot, other = 1 << 15, i;
	struct lb_frontends kept[LB_FRONTEND_LINES + 1];

	for (i = 0; i <= LB_FRONTEND_LINES; i++)
		kept[i] = w->f.frontends[(home + i) % FRONTEND_LINES];

	rule = "a key is found beside another one of its tag";
	for (i = 0; i < LB_FRONTEND_WAYS; i++)
		if (!fixture_line(&w->f, hash)->way[i])
			fixture_line(&w->f, hash)->way[i] = lb_hash_way(hash) | w->service[0][0].slot;
	CHECK(decide(w, vip, 0, 0).reason == LB_REASON_FORWARDED, "IPv%d", vip.family);

	/* A slot that is free has the key that it had. */
	rule = "a key is found beside another one of its tag, though the bits of both slots make one that had the key before";
	memset(fixture_line(&w->f, hash)->way, 0, sizeof kept[0].way);
	fixture_line(&w->f, hash)->way[0] = mine;
	fixture_line(&w->f, hash)->way[1] = lb_hash_way(hash) | other;
	w->f.slots[slot | other].key = key;
	memcpy(w->f.keys6[(slot | other) / LB_KEYS6_PACKED].address[(slot | other) % LB_KEYS6_PACKED], vip.address, 12);
	CHECK(decide(w, vip, 0, 0).reason == LB_REASON_FORWARDED, "IPv%d", vip.family);
	w->f.slots[slot | other].key = 0;

	rule = "a key is found in the lines after its own, and no further";
	for (uint32_t at = 1; at <= LB_FRONTEND_LINES; at++) {
		for (i = 0; i <= LB_FRONTEND_LINES; i++) {
			struct lb_frontends *line = &w->f.frontends[(home + i) % FRONTEND_LINES];

			line->signs = LB_SIGN_MORE;
			for (int way = 0; way < LB_FRONTEND_WAYS; way++)
				line->way[way] = (lb_hash_way(hash) ^ (way & 1) << 31) | w->service[0][0].slot;
			if (i == at)
				line->way[at % LB_FRONTEND_WAYS] = mine;
		}
		CHECK((decide(w, vip, 0, 0).reason == LB_REASON_FORWARDED) == (at < LB_FRONTEND_LINES), "IPv%d at %u", vip.family, at);
		w->f.frontends[(home + at - 1) % FRONTEND_LINES].signs = 0;
		CHECK(decide(w, vip, 0, 0).reason == LB_REASON_NOT_A_SERVICE, "IPv%d at %u: nobody said that there is more", vip.family, at);
	}
	for (i = 0; i <= LB_FRONTEND_LINES; i++)
		w->f.frontends[(home + i) % FRONTEND_LINES] = kept[i];
}

static void commits(struct world *w)
{
	struct endpoint vip = at4("10.96.4.1", 80), vip6 = at6("fd00:96::4:1", 80);
	struct service s = service_add(&w->f, vip, IPPROTO_UDP, w->backend4, 1, (struct service_options){}), *other = &w->service[0][0];
	uint64_t old = lb_slot_final(s.line, 1), new = lb_slot_final(region_write(&w->f, &s, LB_IPV4, &other->backend[1], 1,
									       (struct service_options){}), 1);
	int fd;

	rule = "a commit is seen at its number";
	w->f.control->number = LB_NUMBER_MASK; /* about to wrap */
	w->f.pending[7] = (struct lb_pending){ .before = old, .after = new };
	w->f.slots[s.slot].word = lb_slot_pending(w->f.control->number + 1, 7);
	CHECK(choose(w, vip) == s.backend[0], "too early");
	w->f.control->number++;
	CHECK(choose(w, vip) == other->backend[1], "too late");
	w->f.slots[s.slot].word = new;
	CHECK(choose(w, vip) == other->backend[1], "final");
	w->f.control->number = 0;

	rule = "an absent slot is no service";
	fd = open_socket(AF_INET, SOCK_DGRAM);
	w->f.pending[7].after = lb_slot_absent(2);
	w->f.slots[s.slot].word = lb_slot_pending(0, 7);
	CHECK(!connect_to(fd, vip) || errno == ENETUNREACH, "%s", strerror(errno));
	CHECK(!record_of(w, fd).backend_ref, "translated");
	w->f.slots[s.slot].word = lb_slot_absent(2);
	CHECK(!connect_to(fd, vip) || errno == ENETUNREACH, "%s", strerror(errno));
	CHECK(!record_of(w, fd).backend_ref, "translated");
	CHECK(decide(w, vip, 0, 0).verdict == LB_PASS, "explain differs");
	close(fd);

	rule = "a slot that is another key's is not believed";
	w->f.slots[s.slot].word = lb_slot_final(s.line, 2);
	w->f.slots[s.slot].key ^= 1;
	CHECK(decide(w, vip, 0, 0).reason == LB_REASON_NOT_A_SERVICE, "believed");
	w->f.slots[s.slot].key ^= 1;
	CHECK(decide(w, vip, 0, 0).reason == LB_REASON_FORWARDED, "not found");

	crowded(w, vip, s.slot);
	crowded(w, vip6, service_add(&w->f, vip6, IPPROTO_UDP, w->backend6, 1, (struct service_options){}).slot);

	rule = "an index out of range drops, and says so";
	w->f.slots[s.slot].word = lb_slot_final(0xffffff, 2);
	fd = open_socket(AF_INET, SOCK_DGRAM);
	CHECK(connect_to(fd, vip) == refusal(w, EHOSTUNREACH), "%s", strerror(errno));
	CHECK(verdicts(&w->f, LB_REASON_CORRUPT_INDEX) == 1, "%lu", verdicts(&w->f, LB_REASON_CORRUPT_INDEX));
	close(fd);
	w->f.slots[s.slot].word = lb_slot_absent(2);
}

void rules_choice(struct world *w)
{
	algorithms(w);
	affinity(w);
	if (!w->f.variant.legacy)
		affinity_race(w);
	wide(w);
	commits(w);
}
