// What a stream does, counted while somebody wants to know: frames drawn, bytes come, and how long an answer takes.

const SAMPLES = 5;
const QUIET_MS = 60;
const LOST_AFTER_MS = 5000;
// RFB: one pixel, whether it has changed or not; watchers may ask for it as well.
const ASK_FOR_A_PIXEL = new Uint8Array([3, 0, 0, 0, 0, 0, 0, 1, 0, 1]);

export class Meter {
  #context;
  #socket;
  #frames = 0;
  #bytes = 0;
  /** Pictures of one pixel that were asked for here, and are none of the desktop's own. */
  #answers = 0;
  #since = performance.now();
  #heardAt = 0;
  #askedAt = 0;
  /** Milliseconds, the latest last. */
  #roundTrips = [];
  #onMessage = (event) => this.#heard(event.data.byteLength ?? 0);

  /** @param {HTMLCanvasElement} canvas what is drawn on @param {WebSocket} socket */
  constructor(canvas, socket) {
    this.#context = canvas.getContext("2d");
    this.#socket = socket;
    const draw = this.#context.drawImage;
    // Each picture that noVNC shows is one call of this.
    this.#context.drawImage = (...what) => {
      this.#frames++;
      return draw.apply(this.#context, what);
    };
    socket.addEventListener("message", this.#onMessage);
    this.#ask();
  }

  /** Since the last sample. @returns {{framesPerSecond: number, kilobitsPerSecond: number, roundTrip: number|null}} milliseconds; null: not known yet */
  sample() {
    const now = performance.now();
    const seconds = (now - this.#since) / 1000;
    const taken = { framesPerSecond: Math.max(0, this.#frames - this.#answers) / seconds, kilobitsPerSecond: (this.#bytes * 8) / 1000 / seconds, roundTrip: median(this.#roundTrips) };
    this.#frames = this.#bytes = this.#answers = 0;
    this.#since = now;
    this.#ask();
    return taken;
  }

  stop() {
    delete this.#context.drawImage;
    this.#socket.removeEventListener("message", this.#onMessage);
  }

  /** Only while nothing else comes: what comes first would be taken for the answer. */
  #ask() {
    const now = performance.now();
    const isWaiting = this.#askedAt && now - this.#askedAt < LOST_AFTER_MS;
    if (this.#socket.readyState !== WebSocket.OPEN || isWaiting || now - this.#heardAt < QUIET_MS) return;
    this.#askedAt = now;
    this.#socket.send(ASK_FOR_A_PIXEL);
  }

  #heard(bytes) {
    const now = performance.now();
    this.#bytes += bytes;
    this.#heardAt = now;
    if (!this.#askedAt) return;
    this.#roundTrips = [...this.#roundTrips, now - this.#askedAt].slice(-SAMPLES);
    this.#askedAt = 0;
    this.#answers++;
  }
}

function median(numbers) {
  return numbers.length ? [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] : null;
}
