// Uploads FILE to ENDPOINT with tus-js-client and the access token TOKEN, in requests of CHUNK bytes. If a request
// fails, tus-js-client continues at the offset of the server. If URL is set, the script continues the upload at URL
// instead of creating an upload. On success, it prints the URL of the upload, the number of failed requests, and all
// responses as JSON.
import { createReadStream } from 'node:fs'
import { Upload } from 'tus-js-client'

const { ENDPOINT: endpoint, TOKEN: token, FILE: file, URL: url, CHUNK: chunk } = process.env
const answers = []
let failures = 0

const upload = new Upload(createReadStream(file), {
  endpoint,
  uploadUrl: url || null,
  chunkSize: Number(chunk),
  retryDelays: Array(30).fill(200),
  headers: { Authorization: `Bearer ${token}` },
  metadata: { filename: 'großes Ω.bin', filetype: 'application/x-test' },
  onAfterResponse: (request, response) => {
    answers.push({ method: request.getMethod(), status: response.getStatus(), offset: Number(response.getHeader('Upload-Offset') ?? -1) })
  },
  onShouldRetry: (error) => {
    failures++
    const status = error.originalResponse?.getStatus() ?? 0
    return status < 400 || status >= 500 || status === 409 || status === 423 // the default of tus-js-client
  },
  onError: (error) => {
    console.error(String(error), JSON.stringify(answers))
    process.exitCode = 1
  },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url, failures, answers })),
})
upload.start()
