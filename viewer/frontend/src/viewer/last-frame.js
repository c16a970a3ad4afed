// The last picture that was seen, kept grey below the cover until there is a new one.

import { bytesOf } from "../api.js";
import { element } from "../dom.js";

// A foreign page's picture cannot be copied; of such a desktop the capture's is kept, seldom, so that it is there when the network is not.
const ASK_EVERY_MS = 20_000;
const WIDTH = 640;

export class LastFrame {
  node = element("canvas", { class: "viewer-last-frame", hidden: true, "aria-hidden": "true" });
  /** @type {Blob|null} */
  #picture = null;
  #timer = 0;

  get isKept() {
    return !this.node.hidden;
  }

  /** Keep what that stream shows, or the last picture of it that was asked for. */
  keep(stream) {
    if (stream?.copyTo(this.node)) this.node.hidden = false;
    else if (this.#picture) this.#show(this.#picture);
  }

  forget() {
    this.node.hidden = true;
  }

  /** Ask for a picture now and then. @param {() => Promise<Blob>} ask */
  follow(ask) {
    this.unfollow();
    const look = async () => {
      if (document.hidden) return;
      try {
        this.#picture = await ask();
      } catch {
        // None yet, or none of such a desktop: the cover stands on the plain ground.
      }
    };
    this.#timer = setInterval(look, ASK_EVERY_MS);
    look();
  }

  unfollow() {
    clearInterval(this.#timer);
  }

  /** Another session: nothing is known of it. */
  reset() {
    this.unfollow();
    this.#picture = null;
    this.forget();
  }

  async #show(picture) {
    // Hidden again by whoever forgets it meanwhile.
    this.node.hidden = false;
    this.node.width = this.node.height = 1;
    try {
      const image = await createImageBitmap(picture);
      this.node.width = image.width;
      this.node.height = image.height;
      this.node.getContext("2d").drawImage(image, 0, 0);
    } catch {
      this.node.hidden = true;
    }
  }
}

/** The capture's picture of that session. @param {import("./connection.js").Connection} connection @param {string} sessionId @returns {Promise<Blob>} */
export async function pictureOf(connection, sessionId) {
  const { items } = await connection.call("POST", "/api/v1/thumbnails", { width: WIDTH, items: [{ session_id: sessionId }] });
  if (!items[0].data) throw new Error(items[0].detail ?? "no picture");
  return new Blob([bytesOf(items[0].data)], { type: "image/jpeg" });
}
