// The submit page: choose or drop files, send them to the API with progress, show its answer.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const form = byId("submit-form");
  const drop = byId("drop");
  const MAX_FILES = Number(form.dataset.maxFiles);
  const MAX_BYTES = Number(form.dataset.maxBytes);
  const MAX_ENTRIES = Number(form.dataset.maxEntries); // in an archive
  const MANY = 20; // from so many files on, they are sent as one archive, which the server reads with less work
  const ARCHIVE = /\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$/i;
  const SHOWN = 8;
  const TOGETHER = 100; // files that are compared as one: reading them one by one takes four times as long
  const PIECE = 1 << 22; // bytes that are compared at once
  const IGNORED = new Set([".ds_store", "thumbs.db"]);

  let files = []; // {file, path, name}: a file of a folder is named by its path in it
  let leftOut = 0; // of the files that were added last: how many were chosen before
  let key = null; // the same submission, sent again, makes the same job
  let sentKey = null; // the key of the last try, which may have made a job
  let request = null;
  let sending = false; // from Submit on until the submission has ended: nothing of it changes meanwhile
  let additions = 0; // how many are under way: dropped folders are read, files are compared
  let adding = Promise.resolve(); // the last of them

  // --- The chosen files --------------------------------------------------------------------------------------------
  const keyOf = ({file, path}) => `${path}/${file.size}/${file.lastModified}`;
  const topOf = (name) => name.split("/", 1)[0];
  const {compare} = new Intl.Collator("en", {numeric: true}); // "2" comes before "10"
  const byPath = (one, other) => compare(one.path, other.path);
  const bytesOf = (some) => some.reduce((total, {file}) => total + file.size, 0);

  // Add batches of {file, path}: a batch is a file, or the files of a folder. Browsers give them in any order, so sort
  // them. What was chosen before is left out. If another file or folder has the name of a batch, the batch gets a new
  // name, so that both stay apart.
  function add(batches) {
    return whileAdding(() => adding = adding.then(() => addNext(batches)));
  }

  // Do something that adds files, unless a submission is being sent. Until it has ended, Submit and × are disabled.
  async function whileAdding(work) {
    if (sending) return;
    additions += 1;
    draw();
    try {
      await work();
    } finally {
      additions -= 1;
      draw();
    }
  }

  async function addNext(batches) {
    const some = batches.map((batch) => batch.filter(({file}) => !IGNORED.has(file.name.toLowerCase())).sort(byPath));
    const sorted = some.filter((batch) => batch.length > 0).sort(([one], [other]) => byPath(one, other));
    const tops = new Set(sorted.map(([{path}]) => topOf(path)));
    const dropped = await dropUnreadable(files.filter(({path}) => tops.has(topOf(path))));
    const chosen = new Map(); // from each top name to its files
    const put = (one) => {
      if (!chosen.has(topOf(one.name))) chosen.set(topOf(one.name), []);
      chosen.get(topOf(one.name)).push(one);
    };
    files.forEach(put);
    leftOut = 0;
    const total = size(bytesOf(sorted.flat()));
    let done = 0;
    const report = (bytes) => {
      const progress = `${size(done + bytes)} of ${total}`;
      byId("chosen-sum").textContent = `Comparing with the files that were chosen before: ${progress}`;
    };
    for (const wanted of sorted) {
      const top = topOf(wanted[0].path);
      const [stem, suffix] = wanted[0].path === top ? splitSuffix(top) : [top, ""];
      let name = top;
      for (let number = 2; chosen.has(name) && !(await isSame(wanted, chosen.get(name), report)); number += 1) {
        name = `${stem} (${number})${suffix}`;
      }
      const before = new Set(chosen.get(name)?.map(keyOf));
      for (const one of wanted) {
        if (before.has(keyOf(one))) { leftOut += 1; continue; }
        files.push({...one, name: name + one.path.slice(top.length)});
        put(files.at(-1));
        key = null;
      }
      done += bytesOf(wanted);
    }
    hideProblem();
    const paths = new Set(sorted.flat().map(({path}) => path));
    const missing = dropped.filter(({path}) => !paths.has(path));
    if (missing.length > 0) problem(...notReadable(missing));
  }

  // Return those of some files that changed since they were chosen, or that cannot be read any more.
  async function unreadable(some) {
    if (some.length === 0) return some;
    try {
      await new Blob(some.map(({file}) => file.slice(0, 1))).arrayBuffer();
      return [];
    } catch {
      if (some.length === 1) return some;
      const half = some.length >> 1;
      return [...(await unreadable(some.slice(0, half))), ...(await unreadable(some.slice(half)))];
    }
  }

  // Remove those of some chosen files that cannot be sent any more, and return them. They can be chosen again.
  async function dropUnreadable(some) {
    const dropped = new Set(await unreadable(some));
    if (dropped.size > 0) {
      files = files.filter((one) => !dropped.has(one));
      leftOut = 0;
      key = null;
    }
    return [...dropped];
  }

  function notReadable([{name}, ...others]) {
    const detail = `${name} changed since it was chosen, or cannot be read any more. It was removed from the list.`;
    const more = others.length > 0 ? `The same holds for ${others.length} more.` : "";
    return ["A file is not readable", `${detail} Choose ${name.includes("/") ? "its folder" : "it"} again.`, more];
  }

  function splitSuffix(name) {
    const at = name.search(/(\.tar)?\.[^.]*$/i);
    return at > 0 ? [name.slice(0, at), name.slice(at)] : [name, ""];
  }

  // Whether a batch and the files chosen before are the same file or folder: one holds all files of the other.
  async function isSame(batch, chosen, report) {
    const before = new Map(chosen.map((one) => [keyOf(one), one.file]));
    const common = batch.filter((one) => before.has(keyOf(one)));
    if (common.length < Math.min(batch.length, chosen.length)) return false;
    let done = 0;
    for (let at = 0; at < common.length; at += TOGETHER) {
      const some = common.slice(at, at + TOGETHER);
      const pair = [new Blob(some.map(({file}) => file)), new Blob(some.map((one) => before.get(keyOf(one))))];
      if (!(await haveSameBytes(pair, (bytes) => report(done + bytes)))) return false;
      done += pair[0].size;
    }
    return true;
  }

  // Compare two blobs of the same size. If one cannot be read, they may differ, so that both are kept.
  async function haveSameBytes(pair, report) {
    try {
      for (let at = 0; at < pair[0].size; at += PIECE) {
        report(at);
        const read = (blob) => blob.slice(at, at + PIECE).arrayBuffer();
        const [one, other] = (await Promise.all(pair.map(read))).map((bytes) => new Uint8Array(bytes));
        for (let place = 0; place < one.length; place += 1) { // much quicker than some()
          if (one[place] !== other[place]) return false;
        }
      }
      return true;
    } catch {
      return false;
    }
  }

  function draw() {
    const list = byId("chosen");
    list.replaceChildren(...files.slice(0, SHOWN).map(item));
    list.hidden = files.length === 0;
    const sum = byId("chosen-sum");
    sum.hidden = files.length === 0 && additions === 0;
    const again = leftOut ? `; left out ${leftOut} that ${leftOut === 1 ? "was" : "were"} chosen before` : "";
    const bytes = bytesOf(files);
    const more = files.length > SHOWN ? ` (${files.length - SHOWN} not shown)` : "";
    sum.textContent = `${files.length} ${files.length === 1 ? "file" : "files"}${more}, ${size(bytes)}${again}`;
    if (additions > 0) sum.textContent = "Adding files";
    const [isLarge, isMany] = [bytes > MAX_BYTES, packed().length > MAX_ENTRIES];
    byId("send").disabled = sending || additions > 0 || isLarge || isMany || "noModel" in byId("send").dataset;
    if (additions > 0) return;
    if (isLarge) problem("Too large", `At most ${size(MAX_BYTES)} can be sent at once. Submit fewer files.`);
    else if (isMany) {
      const most = MAX_ENTRIES.toLocaleString("en");
      problem("Too many files", `At most ${most} files can be sent at once. Submit fewer files, or pack them into archives.`);
    }
  }

  function item(one) {
    const line = document.createElement("li");
    const name = document.createElement("bdi");
    name.textContent = one.name;
    const length = document.createElement("span");
    length.className = "sub";
    length.textContent = size(one.file.size);
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "icon-button small";
    remove.setAttribute("aria-label", `Remove ${one.name}`);
    remove.textContent = "×";
    remove.disabled = sending || additions > 0;
    remove.addEventListener("click", () => {
      files = files.filter((other) => other !== one);
      leftOut = 0;
      key = null;
      hideProblem();
      draw();
    });
    line.append(name, length, remove);
    return line;
  }

  function size(bytes) {
    for (const unit of ["bytes", "KiB", "MiB", "GiB"]) {
      if (bytes < 1024) return `${bytes < 10 && unit !== "bytes" ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
      bytes /= 1024;
    }
    return `${bytes.toFixed(1)} TiB`;
  }

  const loose = (list) => [...list].map((file) => [{file, path: file.name}]);

  byId("files").addEventListener("change", ({target}) => {
    add(loose(target.files));
    target.value = "";
  });
  byId("folder").addEventListener("change", ({target}) => {
    add([[...target.files].map((file) => ({file, path: file.webkitRelativePath}))]);
    target.value = "";
  });
  byId("folder").disabled = false;
  byId("folder").tabIndex = 0;
  byId("folder-label").hidden = false;

  // --- Dropping ---------------------------------------------------------------------------------------------------
  // Put the files of an entry into `found`.
  async function walk(entry, path, found) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({file, path: path + entry.name});
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader gives at most 100 entries at a time
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) return;
      for (const child of some) await walk(child, `${path}${entry.name}/`, found);
    }
  }

  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", !sending); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((one) => one.webkitGetAsEntry?.()).filter(Boolean);
    if (entries.length === 0) return add(loose(event.dataTransfer.files));
    whileAdding(() => addEntries(entries));
  });

  async function addEntries(entries) {
    try {
      const batches = entries.map(() => []);
      for (const [at, entry] of entries.entries()) await walk(entry, "", batches[at]);
      await add(batches);
    } catch {
      problem("Not readable", "The browser could not read the dropped files. Choose them instead.");
    }
  }

  // --- Sending ----------------------------------------------------------------------------------------------------
  function newKey() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("send").disabled) return; // Enter in a field comes here, too
    if (files.length === 0) return problem("No files", "Choose at least one archive or image.");
    hideProblem();
    key ??= newKey();
    const body = new FormData();
    body.append("name", byId("job-name").value || defaultName());
    body.append("priority", byId("priority").value);
    for (const [file, name] of parts()) body.append("files", file, name);
    setSending(true);
    sendWithToken(body, key);
  });

  // The folder that holds all files, or "".
  function folder() {
    const top = topOf(files[0].name);
    return files.every(({name}) => name.startsWith(`${top}/`)) ? top : "";
  }

  function defaultName() {
    const [{file}] = files;
    if (files.length === 1) return file.name;
    return folder() || `${file.name} and ${files.length - 1} more`;
  }

  // The files that are sent as one TAR. An archive stays as it is, unless a form does not take so many.
  function packed() {
    const others = files.filter(({file}) => !ARCHIVE.test(file.name));
    const archives = files.length - others.length;
    if (others.length < MANY) return files.length > MAX_FILES ? files : [];
    return archives + 1 > MAX_FILES ? files : others;
  }

  // The files to send, with their names.
  function parts() {
    const members = packed();
    const inside = new Set(members);
    const rest = files.filter((one) => !inside.has(one)).map((one) => [one.file, one.name]);
    if (members.length === 0) return rest;
    let name = `${folder() || "files"}.tar`;
    while (rest.some(([, other]) => other === name)) name = name.replace(/\.tar$/, "-packed.tar"); // as the command line
    return [[tar(members), name], ...rest];
  }

  // The session may have ended since the page was opened, or be another user's. Ask first, so that no upload is refused
  // after it is sent. Ask, too, if an earlier try has made the job.
  async function sendWithToken(body, key) {
    const refusal = await window.ctbatch.renewToken();
    if (refusal) return failed(...refusal);
    try {
      if (key === sentKey && (await isSettled(key))) return;
    } catch {
      return failed(...LOST);
    }
    send(body, key);
  }

  // --- A TAR of many files. The browser reads a file only when its turn to be sent comes. ------------------------------
  const BLOCK = 512;
  const text = new TextEncoder();
  const padding = (bytes) => new Uint8Array(-bytes & (BLOCK - 1));

  function tar(some) {
    const blocks = some.flatMap(({file, name}) => {
      const path = text.encode(name);
      const member = [header(path.slice(0, 100), file.size, "0"), file, padding(file.size)];
      if (path.length <= 100) return member;
      return [header(text.encode("././@LongLink"), path.length, "L"), path, padding(path.length), ...member];
    });
    return new Blob([...blocks, new Uint8Array(2 * BLOCK)]);
  }

  function header(name, bytes, kind) {
    const block = new Uint8Array(BLOCK);
    const put = (at, value) => block.set(text.encode(value), at);
    block.set(name);
    put(100, "0000644\0");
    if (bytes < 8 ** 11) put(124, `${bytes.toString(8).padStart(11, "0")}\0`);
    else { // GNU's form of a size from 8 GiB on
      block[124] = 0x80;
      new DataView(block.buffer).setBigUint64(128, BigInt(bytes));
    }
    put(148, "        "); // the checksum counts as blanks
    put(156, kind);
    put(257, "ustar  \0");
    const sum = block.reduce((total, byte) => total + byte, 0);
    put(148, `${sum.toString(8).padStart(6, "0")}\0 `);
    return block;
  }

  const askToStay = (event) => event.preventDefault(); // to leave the page stops the upload

  function send(body, key) {
    request = new XMLHttpRequest();
    request.open("POST", form.dataset.api);
    request.setRequestHeader("X-CSRFToken", form.elements.csrf_token.value);
    request.setRequestHeader("Idempotency-Key", key);
    request.responseType = "json";
    const started = Date.now();
    request.upload.addEventListener("progress", (event) => progress(event, started));
    request.upload.addEventListener("load", () => {
      byId("upload-title").textContent = "Checking";
      byId("upload-text").textContent = "Everything is sent. The server is checking it. You can cancel the job on its page.";
      byId("upload-stop").hidden = true; // the server goes on, even if nobody waits for its answer
      byId("upload-bar").removeAttribute("value");
    });
    request.addEventListener("load", () => answered(key));
    request.addEventListener("error", () => answerLost(key));
    request.addEventListener("abort", () => failed("Stopped", "Nothing was queued."));
    window.addEventListener("beforeunload", askToStay);
    for (const end of [request.upload, request]) { // all is sent, or the request has ended
      end.addEventListener("loadend", () => window.removeEventListener("beforeunload", askToStay));
    }
    byId("upload-stop").hidden = false;
    sentKey = key;
    request.send(body);
  }

  function progress(event, started) {
    if (!event.lengthComputable) return;
    const done = event.loaded / event.total;
    byId("upload-bar").value = done;
    byId("upload-percent").textContent = `${Math.floor(done * 100)} %`;
    const rate = event.loaded / Math.max((Date.now() - started) / 1000, 0.1);
    byId("upload-text").textContent = `${size(event.loaded)} of ${size(event.total)}, ${size(rate)}/s`;
  }

  const LOST = [
    "The connection broke",
    "It is not known whether the job was queued. Submit again: it will not be queued twice.",
  ];

  // The answer got lost, but the job may have been made.
  async function answerLost(key) {
    try {
      if (await isSettled(key)) return;
      const dropped = await dropUnreadable(files);
      if (dropped.length > 0) return failed(...notReadable(dropped));
    } catch { /* the server is away */ }
    failed(...LOST);
  }

  // Find the job by its key, without sending the files again, and show it. This also works if its name was changed before
  // it was sent again. Return whether the submission has ended by this. Raise an error if the server does not answer.
  async function isSettled(key) {
    const listed = await fetch(`${form.dataset.api}?idempotency_key=${key}`, {headers: {Accept: "application/json"}});
    if (listed.status === 401) {
      failed(...window.ctbatch.SIGNED_OUT);
      return true;
    }
    if (!listed.ok) throw new Error(`The server answered ${listed.status}.`);
    const [job] = (await listed.json()).items;
    if (job) window.location.assign(job.links.page);
    return Boolean(job);
  }

  function answered(key) {
    const answer = request.response;
    if (request.status === 200 || request.status === 202) {
      window.location.assign(answer.links.page);
      return;
    }
    if (request.status === 401) return failed(...window.ctbatch.SIGNED_OUT);
    if (answer?.type?.endsWith(":idempotency-conflict")) return answerLost(key);
    failed("This submission was not accepted", answer?.detail || `The server answered ${request.status}.`,
      answer?.file ? `${answer.file} · ${answer.code}` : "");
  }

  function failed(title, detail, more = "") {
    request = null;
    setSending(false);
    problem(title, detail, more);
  }

  function setSending(yes) {
    sending = yes;
    draw();
    byId("upload").hidden = !yes;
    drop.inert = yes;
    byId("upload-title").textContent = "Sending";
    byId("upload-bar").value = 0;
    byId("upload-percent").textContent = "0 %";
    byId("upload-text").textContent = "";
    byId("upload-stop").hidden = true; // until there is something to stop
  }

  byId("upload-stop").addEventListener("click", () => request?.abort());

  function problem(title, detail, more = "") {
    byId("problem-title").textContent = title;
    byId("problem-detail").textContent = detail;
    byId("problem-more").textContent = more;
    byId("problem").hidden = false;
    byId("problem").focus();
  }

  function hideProblem() {
    byId("problem").hidden = true;
  }
})();
