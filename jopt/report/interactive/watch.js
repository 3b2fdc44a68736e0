// Before anything else: a page that broke must be able to say so.
window.onerror = (message, source, line) => {
  const root = document.documentElement;
  root.dataset.error = `${root.dataset.error || ""}${message} (line ${line}) `;
};
window.onunhandledrejection = (event) => window.onerror(String(event.reason), "", 0);
