// The pictures of docs/bench, drawn from a report of run.mjs.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import * as vega from 'vega';
import { compile } from 'vega-lite';

const counts = [1, 100, 1_000, 10_000, 100_000];

/** Points of a line: one for each number of services that was measured. */
const line = (figures, label, figureOf, scale = 1) =>
  counts
    .filter((count) => figureOf(count) in (figures ?? {}))
    .map((count) => ({ services: count, value: figures[figureOf(count)] * scale, line: label }));

function connectLatency({ connect }) {
  return {
    title: 'UDP connect(), p50',
    unit: 'nanoseconds',
    zero: true,
    points: [
      ...line(connect, 'direct', (count) => `direct.${count}.ns`),
      ...line(connect, 'no service', (count) => `none.${count}.ns`),
      ...line(connect, 'one service', (count) => `hot.${count}.ns`),
      ...line(connect, 'random services', (count) => `random.${count}.ns`),
    ],
  };
}

function updateTime(results) {
  const figures = results['set-backends'];
  return {
    title: 'One service gets another backend',
    unit: 'milliseconds',
    logarithmic: true,
    points: [
      ...line(figures, 'ebpf-lb', (count) => `random3.${count}.us`, 1e-3),
      ...line(figures, 'kube-proxy nftables', (count) => `nftables.${count}.ms`),
      ...line(figures, 'kube-proxy iptables', (count) => `iptables.${count}.ms`),
    ],
  };
}

function applyTime({ apply }) {
  return {
    title: 'All services from empty, 3 backends each',
    unit: 'milliseconds',
    logarithmic: true,
    points: [
      ...line(apply, 'ebpf-lb', (count) => `empty.${count}.ms`),
      ...line(apply, 'kube-proxy nftables', (count) => `nftables.empty.${count}.ms`),
      ...line(apply, 'kube-proxy iptables', (count) => `iptables.empty.${count}.ms`),
    ],
  };
}

function specification({ title, unit, zero, logarithmic, points }, subtitle) {
  const lines = [...new Set(points.map((point) => point.line))];
  return {
    title: { text: title, subtitle, anchor: 'start', subtitleColor: '#666' },
    width: 480,
    height: 260,
    background: 'white',
    data: { values: points },
    encoding: {
      x: {
        field: 'services',
        type: 'quantitative',
        scale: { type: 'log' },
        axis: { title: 'services', values: counts, format: ',', grid: false },
      },
      y: {
        field: 'value',
        type: 'quantitative',
        scale: logarithmic ? { type: 'log' } : { zero },
        axis: { title: unit, ...(logarithmic ? { format: ',~g', tickCount: 6 } : { format: ',.0f' }) },
      },
      color: { field: 'line', type: 'nominal', sort: lines, scale: { domain: lines, scheme: 'tableau10' }, legend: { title: null } },
    },
    layer: [{ mark: { type: 'line', strokeWidth: 2 } }, { mark: { type: 'point', filled: true, size: 50, opacity: 1 } }],
    config: { font: 'sans-serif', view: { stroke: null } },
  };
}

/** Writes the pictures whose figures are there; returns the files. */
export async function draw({ machine, kernel, date, results }, directory) {
  const pictures = { connect: connectLatency(results), update: updateTime(results), apply: applyTime(results) };
  const subtitle = `${machine}, Linux ${kernel}, ${date.slice(0, 10)}`;
  mkdirSync(directory, { recursive: true });
  const files = [];
  for (const [name, picture] of Object.entries(pictures)) {
    if (picture.points.length === 0) continue;
    const { spec } = compile(specification(picture, subtitle));
    const svg = await new vega.View(vega.parse(spec), { renderer: 'none' }).toSVG();
    files.push(path.join(directory, `${name}.svg`));
    writeFileSync(files.at(-1), `${svg}\n`);
  }
  return files;
}
