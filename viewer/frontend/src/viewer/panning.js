// Moving a picture that is larger than its place by dragging it.

/** Drags inside `stage` scroll what `scroller()` says, while `isOn`; the desktop hears nothing of them. */
export class Panning {
  isOn = false;
  #from = null;

  /** @param {HTMLElement} stage @param {() => HTMLElement|null} scroller */
  constructor(stage, scroller) {
    const keep = (event) => this.isOn && event.stopPropagation();
    for (const kind of ["mousedown", "mousemove", "mouseup", "touchstart", "touchmove", "touchend"]) stage.addEventListener(kind, keep, { capture: true });
    stage.addEventListener("pointerdown", (event) => {
      const at = scroller();
      // Scrollbars stay what they are.
      if (!this.isOn || !at || event.button !== 0 || event.target === at) return;
      this.#from = { x: event.clientX, y: event.clientY, left: at.scrollLeft, top: at.scrollTop };
      stage.setPointerCapture(event.pointerId);
      stage.dataset.dragging = "true";
    });
    stage.addEventListener("pointermove", (event) => {
      if (!this.#from) return;
      scroller()?.scrollTo(this.#from.left - (event.clientX - this.#from.x), this.#from.top - (event.clientY - this.#from.y));
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      stage.addEventListener(kind, () => {
        this.#from = null;
        delete stage.dataset.dragging;
      });
    }
  }
}
