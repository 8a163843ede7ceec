// Asks the person at the browser for the token of the server, in the dialog `token-dialog` of the page.

/** Returns a promise of the token, or of "". */
export function askToken() {
  const dialog = document.getElementById("token-dialog");
  const field = document.getElementById("token");
  dialog.returnValue = field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue && field.value), { once: true });
  });
}
