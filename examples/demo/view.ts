import type { Report } from './traffic.js';

export interface Row {
  name: string;
  /** Answers bear one of these. */
  endpoints: string[];
  weight: number;
  state: 'active' | 'terminating' | 'removed';
}

const columns = ['TCP over IPv4', 'TCP over IPv6', 'UDP over IPv4', 'UDP over IPv6'] as const;
const barLength = 24;

/** What the demo shows: a table that is drawn again on a terminal, a line a second otherwise. */
export class View {
  rows: Row[] = [];
  controller = '';
  made = 0;
  lost: Report['lost'] = [];
  askedAgain = 0;
  kept: Report['kept'] = { from: '', requests: 0, broken: false };
  #title = '';
  #drawn = 0;
  #lastLine = performance.now();
  /** Of the last second. */
  #recent: Report[] = [];
  readonly #isTerminal = process.stdout.isTTY === true;
  readonly #started = performance.now();

  /** A line that stays. */
  say(text: string): void {
    this.#drawn = 0;
    console.log(text);
  }

  begin(title: string): void {
    this.#title = title;
    this.say(`\n${this.#seconds()}  ${title}`);
    this.#recent = [];
    this.#lastLine = performance.now();
  }

  add(report: Report): void {
    this.#recent = [...this.#recent, report].slice(-5);
    this.made += report.answers.reduce((sum, { count }) => sum + count, 0) + report.lost.length;
    this.lost.push(...report.lost);
    this.askedAgain += report.askedAgain;
    this.kept = report.kept;
    if (this.#title === '') return;
    if (this.#isTerminal) this.#drawTable();
    else if (performance.now() - this.#lastLine >= 1000) this.#printLine();
  }

  nameOf(endpoint: string): string {
    return this.rows.find((row) => row.endpoints.includes(endpoint))?.name ?? endpoint;
  }

  /** Has this backend answered anything within the last half second? */
  isAnswering(row: Row): boolean {
    return (
      this.#recent.length < 3 || this.#recent.slice(-3).some((report) => report.answers.some(({ from }) => row.endpoints.includes(from)))
    );
  }

  /** So that what follows is written below the table. */
  end(): void {
    this.#title = '';
    this.#drawn = 0;
  }

  #count(row: Row, kind?: string): number {
    const answers = this.#recent.flatMap((report) => report.answers);
    return answers
      .filter((answer) => row.endpoints.includes(answer.from) && (kind === undefined || answer.kind === kind))
      .reduce((sum, { count }) => sum + count, 0);
  }

  #share(row: Row): number {
    const all = this.rows.reduce((sum, each) => sum + this.#count(each), 0);
    return all === 0 ? 0 : this.#count(row) / all;
  }

  #seconds(): string {
    return `${((performance.now() - this.#started) / 1000).toFixed(0).padStart(2)} s`;
  }

  #printLine(): void {
    this.#lastLine = performance.now();
    const shares = this.rows.map((row) => `${row.name} ${percent(this.#share(row))}`).join('  ');
    console.log(
      `${this.#seconds()}  ${shares}  | connections ${this.made}, lost ${this.lost.length} | ${this.#keptText()} | ${this.controller}`,
    );
  }

  #drawTable(): void {
    const lines = [
      `      ${'backend'.padEnd(10)}${'state'.padEnd(13)}${'weight'.padEnd(8)}${columns.map((name) => name.padStart(15)).join('')}   share of the last second`,
      ...this.rows.map((row) => {
        const share = this.#share(row);
        const weight = row.state === 'removed' ? '' : String(row.weight);
        const counts = columns.map((kind) => String(this.#count(row, kind)).padStart(15)).join('');
        return `      ${row.name.padEnd(10)}${row.state.padEnd(13)}${weight.padEnd(8)}${counts}   ${'█'.repeat(Math.round(share * barLength)).padEnd(barLength)} ${percent(share)}`;
      }),
      `      ${this.#keptText()}; controller: ${this.controller}`,
      `      ${this.made} connections made, ${this.lost.length} lost`,
    ];
    const width = process.stdout.columns ?? 80;
    const up = this.#drawn > 0 ? `\x1b[${this.#drawn}A` : '';
    process.stdout.write(`${up}${lines.map((line) => `\x1b[2K${line.slice(0, width - 1)}\n`).join('')}`);
    this.#drawn = lines.length;
  }

  #keptText(): string {
    const { from, requests, broken } = this.kept;
    return from === ''
      ? 'no kept connection yet'
      : `one kept connection: ${this.nameOf(from)}, ${requests} requests${broken ? ', BROKEN' : ''}`;
  }
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`.padStart(5);
}
