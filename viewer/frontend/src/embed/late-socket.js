// A WebSocket whose ticket is still on its way: to whoever has it, it is one that is connecting.

/** As much of a WebSocket as noVNC and our stream use. */
export class LateSocket extends EventTarget {
  #socket = null;
  #isClosed = false;
  #binaryType = "arraybuffer";
  /** Set by the name that they have on a socket, and called after those that were added. */
  #handlers = { open: null, message: null, error: null, close: null };

  /** @param {() => Promise<WebSocket>} open */
  constructor(open) {
    super();
    open().then((socket) => this.#opened(socket), (problem) => this.#failed(problem));
  }

  get readyState() {
    if (this.#socket) return this.#socket.readyState;
    return this.#isClosed ? WebSocket.CLOSED : WebSocket.CONNECTING;
  }

  get protocol() {
    return this.#socket?.protocol ?? "";
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(kind) {
    this.#binaryType = kind;
    if (this.#socket) this.#socket.binaryType = kind;
  }

  get onopen() {
    return this.#handlers.open;
  }

  set onopen(handler) {
    this.#handlers.open = handler;
  }

  get onmessage() {
    return this.#handlers.message;
  }

  set onmessage(handler) {
    this.#handlers.message = handler;
  }

  get onerror() {
    return this.#handlers.error;
  }

  set onerror(handler) {
    this.#handlers.error = handler;
  }

  get onclose() {
    return this.#handlers.close;
  }

  set onclose(handler) {
    this.#handlers.close = handler;
  }

  send(data) {
    this.#socket?.send(data);
  }

  close(code, reason) {
    if (this.#socket) return this.#socket.close(code, reason);
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#tell(new CloseEvent("close", { code: 1000 }));
  }

  #opened(socket) {
    // Nobody waits for it any more; it has used up its ticket all the same.
    if (this.#isClosed) return socket.close();
    this.#socket = socket;
    socket.binaryType = this.#binaryType;
    socket.addEventListener("open", () => this.#tell(new Event("open")));
    socket.addEventListener("message", ({ data }) => this.#tell(new MessageEvent("message", { data })));
    socket.addEventListener("error", () => this.#tell(new Event("error")));
    socket.addEventListener("close", ({ code, reason, wasClean }) => this.#tell(new CloseEvent("close", { code, reason, wasClean })));
  }

  #failed(problem) {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#tell(new CloseEvent("close", { code: 1006, reason: problem?.message?.slice(0, 100) ?? "" }));
  }

  #tell(event) {
    this.dispatchEvent(event);
    this.#handlers[event.type]?.(event);
  }
}
