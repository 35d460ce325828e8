import type { PendingCommit } from './native/binding.js';

/** A commit on a worker thread whose outcome the model has not seen yet. Takes it over exactly once, whoever asks first. */
export class Pending {
  #done = false;
  #failure: { thrown: unknown } | undefined;

  constructor(
    readonly commit: PendingCommit,
    /** Called when the commit has happened. */
    readonly adopt: () => void,
  ) {}

  /** Blocks until the worker is done. Does not throw when the commit failed: that concerns only who asked for it. */
  finish(): void {
    if (this.#done) return;
    this.#done = true;
    try {
      this.commit.wait();
    } catch (thrown) {
      this.#failure = { thrown };
      return;
    }
    this.adopt();
  }

  /** Resolves or rejects as the commit went; the model has followed by then. */
  async settle(): Promise<void> {
    // Its rejection is what wait() throws.
    await this.commit.promise.catch(() => {});
    this.finish();
    if (this.#failure !== undefined) throw this.#failure.thrown;
  }
}
