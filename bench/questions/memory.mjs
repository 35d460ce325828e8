// How much kernel memory does it take? Sizes are the kernel's own (`memlock` of a map's fdinfo), from status().
import { LoadBalancer } from 'ebpf-lb';
import { withBalancer } from '../support/balancer.mjs';
import { services } from '../support/services.mjs';
import { mean, sum } from '../support/statistics.mjs';

export const title = 'Kernel memory of the maps';

const count = 10_000;
/** 1,000 regions of a head and 2,003 cells, and as much again as one of them for the line that is nobody's. */
const maglevCells = 1_001 * 2_048;
/** Of what a service takes: what grows with services. The log and counters are reported apart. */
const grows = ['frontends', 'slots', 'table', 'backends'];

const nameOf = (map) => map.name.replace(/^lb_/, '');
const bytesOf = (maps) => sum(maps.map((map) => map.bytes));

/**
 * What of the map is in use. A hash that allocates as it goes says so itself, by what it grew from empty. An array is there from the start: its
 * share in use is what the services took of it.
 */
function used(map, empty) {
  if (map.bytes !== empty.bytes) return map.bytes - empty.bytes;
  return (map.bytes * (map.entries - empty.entries)) / map.capacity;
}

/** Of the flows of the backends that stay, how many go elsewhere when one of ten goes? On average over which one goes, in percent of all flows. */
async function needlessMoves([service]) {
  return withBalancer([service], async (lb) => {
    const moved = [];
    for (const gone of service.backends) {
      const plan = await lb.plan([{ ...service, backends: service.backends.filter((backend) => backend !== gone) }]);
      moved.push(plan.changes[0].movedShare - 1 / service.backends.length);
    }
    return 100 * mean(moved);
  });
}

async function mapsWith(desired, options) {
  return withBalancer(desired, async (lb) => lb.status().maps, options);
}

export async function run({ scratch, log }) {
  const figures = {};
  const notes = [];
  log('default capacity, nothing in it');
  const lb = await LoadBalancer.open();
  const empty = new Map(lb.status().maps.map((map) => [nameOf(map), map]));
  await lb.close();
  const routing = ['keys6', ...grows].map((name) => empty.get(name));
  figures['fixed.bytes'] = bytesOf([...empty.values()]);
  figures['fixed.routing.bytes'] = bytesOf(routing);
  for (const [name, map] of empty)
    notes.push(`fixed, ${name}: ${map.bytes.toLocaleString('en')} bytes for ${map.capacity.toLocaleString('en')}`);

  log(`${count} services of 3 backends`);
  for (const family of [4, 6]) {
    const names = family === 4 ? grows : ['keys6', ...grows];
    const maps = await mapsWith(services(count, { family }));
    let bytes = 0;
    for (const map of maps.filter((each) => names.includes(nameOf(each)))) {
      const each = used(map, empty.get(nameOf(map)));
      notes.push(`IPv${family}, ${nameOf(map)}: ${(each / count).toFixed(1)} bytes a service`);
      bytes += each;
    }
    figures[`service.ipv${family}.bytes`] = bytes / count;
  }
  const pinned = await mapsWith(services(count), { pinPath: `${scratch}/bpf/memory` });
  figures['pinned.total.bytes'] = bytesOf(pinned);
  const logs = pinned.filter((map) => /log/.test(map.name));
  figures['log.service.bytes'] = sum(logs.map((map) => (map.bytes * map.entries) / map.capacity)) / count;

  log('1,000 Maglev services of 10 backends');
  const desired = services(1_000, { backends: 10, algorithm: 'maglev' });
  const maglev = await mapsWith(desired, { capacity: { cells: maglevCells } });
  const cells = maglev.find((map) => nameOf(map) === 'table');
  figures['maglev.table.bytes'] = cells.bytes; // filled to the last region
  figures['maglev.total.bytes'] = bytesOf(maglev);
  figures['maglev.needlessMoves.percent'] = await needlessMoves(desired.slice(0, 1));
  return { figures, notes };
}
