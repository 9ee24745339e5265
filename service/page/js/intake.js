/** How images come onto the page: dropped anywhere, alone or as folders, pasted, or picked. */

/**
 * @param {{drop: HTMLElement, receive: (files: File[]) => void}} parts `drop`: the veil that shows where a drop will go
 */
export function takeImages({ drop, receive }) {
  let depth = 0; // dragenter and dragleave come in pairs for every element crossed
  /** @param {DragEvent} event */
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
  /** @param {number} change */
  const move = (change) => {
    depth = Math.max(0, depth + change);
    drop.hidden = depth === 0;
  };

  addEventListener("dragenter", (event) => carriesFiles(event) && move(1));
  addEventListener("dragleave", (event) => carriesFiles(event) && move(-1));
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    move(-depth);
    receive(await filesOf(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    receive(files);
  });
}

/**
 * A button that opens the system's own dialog.
 * @param {HTMLElement} button
 * @param {HTMLInputElement} input
 * @param {(files: File[]) => void} receive
 */
export function pickImages(button, input, receive) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    receive([...(input.files ?? [])]);
    input.value = ""; // or the same file could not be picked again
  });
}

/** Files of a drop, those within folders too. @param {DataTransfer} transfer @returns {Promise<File[]>} */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const plain = [...transfer.files];
  const folders = entries.filter((entry) => entry?.isDirectory);
  if (folders.length === 0) return plain;
  const nested = await Promise.all(entries.map((entry) => (entry ? within(entry) : [])));
  return nested.flat();
}

/** @param {FileSystemEntry} entry @returns {Promise<File[]>} */
async function within(entry) {
  if (entry.isFile)
    return [await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject))];
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  /** @type {File[]} */
  const found = [];
  for (let some = await read(reader); some.length > 0; some = await read(reader)) {
    for (const each of some) if (!each.name.startsWith(".")) found.push(...(await within(each)));
  }
  return found;
}

/**
 * Some of a folder's entries; none at its end.
 * @param {FileSystemDirectoryReader} reader
 * @returns {Promise<FileSystemEntry[]>}
 */
function read(reader) {
  return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
}
