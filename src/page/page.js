// Puts newer pieces in the place of older ones, as the node sends them. The page is whole without it.
"use strict";
(() => {
  const live = document.getElementById("live");
  const state = document.getElementById("state");
  const button = document.getElementById("pause");
  if (!live || !window.EventSource) return;
  let source = null, later = 0, paused = false;

  const say = (text) => { if (state.textContent !== text) state.textContent = text; };

  // Nobody loses his place: what has the focus, or is being selected, is left as it is.
  const isInUse = (place) => {
    const selection = document.getSelection();
    return place.contains(document.activeElement) ||
      (selection && !selection.isCollapsed && selection.intersectsNode(place));
  };

  const show = (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      const place = document.getElementById(id);
      if (place && !isInUse(place)) place.innerHTML = html;
    }
    say("Live");
  };

  const leave = () => {
    clearTimeout(later);
    if (source) source.close();
    source = null;
  };

  const listen = () => {
    leave();
    if (paused || document.hidden) return;
    source = new EventSource("/events");
    source.onmessage = show;
    source.onerror = () => {
      say("Not live at the moment");
      // A browser gives up by itself only where it was refused: there is no room, or the node stops.
      if (source && source.readyState === EventSource.CLOSED) later = setTimeout(listen, 10000);
    };
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    if (paused) say("Paused");
    listen();
  });
  document.addEventListener("visibilitychange", listen);
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", listen);
})();
